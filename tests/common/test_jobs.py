"""The record of a sweep: what its jobs were, which code they were for, how they rank."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from common.jobs import (
    Code,
    Job,
    JobError,
    Outcome,
    as_rows,
    code_of,
    outcome,
    ranked,
    read_jobs,
    refuse_other_code,
    sweep_folder,
    swept,
    table,
    write_jobs,
)

JOB = Job("launchers.train", "config", 0, ("seed=0", "steps=4"), "run", Code("abc", None))


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    jobs = [JOB, replace(JOB, number=1, overrides=("seed=1", "steps=4"), id="12_1", state="FAILED")]
    write_jobs(tmp_path, jobs)
    assert read_jobs(tmp_path) == jobs
    assert swept(jobs) == ["seed"]
    assert JOB.arguments() == ["seed=0", "steps=4", "hydra.mode=RUN", "hydra.run.dir='run'"]


@pytest.mark.parametrize("content", ["", "[{", "[{}]", '[{"command": "launchers.train"}]', "3"])
def test_a_damaged_record_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.json").write_text(content)
    with pytest.raises(JobError, match=r"jobs\.json is no record of jobs"):
        read_jobs(tmp_path)


def test_the_newest_sweep_is_found(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no sweep below"):
        sweep_folder("last", tmp_path)
    for name in ("first", "second"):
        folder = tmp_path / "tiny" / "sweeps" / name
        folder.mkdir(parents=True)
        write_jobs(folder, [JOB])
    assert sweep_folder("last", tmp_path).name == "second"
    assert sweep_folder(str(tmp_path / "tiny" / "sweeps" / "first"), tmp_path).name == "first"
    with pytest.raises(JobError, match="no folder of a sweep"):
        sweep_folder(str(tmp_path), tmp_path)


@pytest.mark.parametrize(("direction", "order"), [("min", [1, 0, 2]), ("max", [0, 1, 2])])
def test_the_best_comes_first_and_what_has_no_score_last(direction: str, order: list[int]) -> None:
    scores = [0.5, 0.25, None]
    outcomes = [
        Outcome(replace(JOB, number=number), objective="val/loss", direction=direction, best=score)
        for number, score in enumerate(scores)
    ]
    assert [each.job.number for each in ranked(outcomes)] == order


def test_a_deletion_among_the_overrides_is_shown_like_any_other() -> None:
    jobs = [replace(JOB, number=n, overrides=("~callbacks.answers", f"seed={n}")) for n in range(2)]
    assert swept(jobs) == ["seed"]
    assert [row["tried"] for row in as_rows([Outcome(job) for job in jobs])] == [{"seed": "0"}, {"seed": "1"}]
    assert table([Outcome(job) for job in jobs], title="").row_count == 2


def test_an_outcome_is_read_from_a_run_at_any_time(tmp_path: Path) -> None:
    job = replace(JOB, folder=str(tmp_path))
    assert outcome(job) == Outcome(job)
    (tmp_path / "config.yaml").write_text("objective: val/loss\ndirection: min\nsteps: 8\n")
    rows = ["2,train/loss,9.0,0", "2,val/loss,0.3,0", "4,val/loss,nan,0", "6,val/loss,0.4,0"]
    (tmp_path / "metrics.csv").write_text("step,name,value,time\n" + "".join(f"{row}\n" for row in rows))
    found = outcome(job)
    assert (found.step, found.steps, found.best, found.last) == (6, 8, 0.3, 0.4)
    console = Console(width=200, record=True)
    console.print(table([found], title="sweep"))
    assert "6/8" in console.export_text()


def git(folder: Path, *words: str) -> None:
    name = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True)


def test_other_code_than_the_submitted_is_refused(tmp_path: Path) -> None:
    source, page = tmp_path / "common" / "a.py", tmp_path / "README.md"
    source.parent.mkdir()
    for path in (source, page):
        path.write_text("1\n")
    git(tmp_path, "init")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "1")
    submitted = code_of(tmp_path)
    page.write_text("2\n")  # nothing that a job runs
    refuse_other_code(submitted, tmp_path)
    source.write_text("2\n")
    with pytest.raises(JobError, match="have been edited since"):
        refuse_other_code(submitted, tmp_path)
    refuse_other_code(code_of(tmp_path), tmp_path)
    git(tmp_path, "commit", "-a", "-m", "2")
    with pytest.raises(JobError, match=f"git checkout {submitted.revision}"):
        refuse_other_code(submitted, tmp_path)
