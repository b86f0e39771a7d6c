"""Sweeps on one machine: each job a process of its own, all checked before one starts, results best first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from common.jobs import Code, Job, read_jobs
from launchers.array import standing
from launchers.processes import visible_cards
from launchers.search import distribution
from tests.experiments import in_turn
from tests.slurm.conftest import TOY


def sweep(checkout: Path, outputs: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [*TOY, "validate_every=6", f"paths.outputs={outputs}", *overrides]
    command = [sys.executable, "-m", "tests.slurm.train", "-m", *words]
    inherited = os.environ | {"OMP_NUM_THREADS": "1", "TOY_SECONDS": "0"} | environment
    return subprocess.run(command, cwd=checkout, env=inherited, capture_output=True, text=True, check=False)


def folder(outputs: Path) -> Path:
    (found,) = outputs.glob("*/sweeps/*")
    return found


@in_turn(0)
def test_jobs_are_processes_and_a_failed_one_stops_no_other(checkout: Path, tmp_path: Path) -> None:
    done = sweep(checkout, tmp_path, "seed=1,0", "hydra.launcher.at_once=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [job.state for job in read_jobs(folder(tmp_path))] == ["COMPLETED", "COMPLETED"]
    rows = [json.loads(line) for line in (folder(tmp_path) / "results.jsonl").read_text().splitlines()]
    assert [row["tried"] for row in rows] == [{"seed": "0"}, {"seed": "1"}]
    assert (Path(rows[0]["folder"]) / "console.log").exists()
    shown = subprocess.run(
        [sys.executable, "-m", "launchers.sweep", "status", str(folder(tmp_path))], capture_output=True, text=True
    )
    assert shown.stdout.count("COMPLETED") == 2, shown.stderr


@in_turn(1)
def test_a_job_that_fails_is_named_at_the_end(checkout: Path, tmp_path: Path) -> None:
    done = sweep(checkout, tmp_path, "seed=0,1", TOY_FAULT="raise:0:3")
    assert done.returncode == 1
    assert "job 0 is FAILED" in done.stderr
    assert [job.state for job in read_jobs(folder(tmp_path))] == ["FAILED", "FAILED"]


@in_turn(2)
def test_two_devices_of_a_job_are_not_the_sweep_again(checkout: Path, tmp_path: Path) -> None:
    done = sweep(checkout, tmp_path, "seed=0,1", "trainer.devices=2", "trainer.strategy=ddp", "batch.micro=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_jobs(folder(tmp_path))) == 2
    for number in (0, 1):
        lines = (folder(tmp_path) / str(number) / "steps.1").read_text().splitlines()
        assert len(lines) == 12


@in_turn(3)
def test_a_wrong_job_keeps_all_from_starting(checkout: Path, tmp_path: Path) -> None:
    done = sweep(checkout, tmp_path, "seed=0,1", "batch.micro=1,3")
    assert done.returncode == 1
    assert "job 2" in done.stderr
    assert "choose batch.micro so that it divides" in done.stderr
    assert not list(tmp_path.glob("*/sweeps/*/0"))


@in_turn(4)
def test_a_search_chooses_by_what_came_before(checkout: Path, tmp_path: Path) -> None:
    search = ["hydra/sweeper=optuna", "hydra.sweeper.trials=4", "hydra.sweeper.at_once=2", "seed=range(0,100)"]
    done = sweep(checkout, tmp_path, *search, "hydra.launcher.at_once=2")
    assert done.returncode == 0, done.stdout + done.stderr
    best = json.loads((folder(tmp_path) / "best.json").read_text())
    rows = [json.loads(line) for line in (folder(tmp_path) / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert best["value"] == rows[0]["best"]
    assert str(best["settings"]["seed"]) == rows[0]["tried"]["seed"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=tag(log,interval(1e-5,1e-3))", "FloatDistribution(high=0.001, log=True, low=1e-05, step=None)"),
        ("a=int(interval(1,9))", "IntDistribution(high=9, log=False, low=1, step=1)"),
        ("a=range(0,10,3)", "IntDistribution(high=9, log=False, low=0, step=3)"),
        ("a=choice(x,y)", "CategoricalDistribution(choices=('x', 'y'))"),
        ("a=1,2", "CategoricalDistribution(choices=(1, 2))"),
    ],
)
def test_words_of_hydra_are_what_a_search_draws_from(word: str, expected: str) -> None:
    pytest.importorskip("optuna")
    (override,) = OverridesParser.create().parse_overrides([word])
    assert repr(distribution(override)) == expected


def test_cards_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_cards() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_cards() == []


def test_a_job_that_slurm_has_forgotten_says_itself_how_it_ended(tmp_path: Path) -> None:
    jobs = [
        Job("launchers.train", "config", number, (), str(tmp_path / str(number)), Code(None, None), id=f"12_{number}")
        for number in range(3)
    ]
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / ".completed-12_1").write_text("COMPLETED\n")
    assert [job.state for job in standing(jobs, {"12_0": "RUNNING"})] == ["RUNNING", "COMPLETED", "GONE"]


@in_turn(5)
def test_a_run_goes_on_as_a_job_in_its_own_folder(checkout: Path, tmp_path: Path) -> None:
    assert sweep(checkout, tmp_path, TOY_FAULT="raise:0:8").returncode == 1
    run = folder(tmp_path) / "0"
    refused = sweep(checkout, tmp_path, f"ckpt={run}", "trainer.log_every_n_steps=1,2")
    assert f"jobs 0 and 1 would both write into {run}" in refused.stderr
    done = sweep(checkout, tmp_path, f"ckpt={run}")
    assert done.returncode == 0, done.stdout + done.stderr
    done_steps = [int(line.split()[1]) for line in (run / "steps.0").read_text().splitlines()]
    assert done_steps == [*range(9), *range(6, 12)]  # from the checkpoint of step 6
