"""The command itself, on every tiny experiment that there is: steps, figures, a record, a comparison."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from common.config import ROOT, ConfigError, build
from common.memory.operations import model_operations, once
from common.memory.recipe import unloaded
from launchers import benchmark
from launchers.command import compose, run
from launchers.machine import memory_run
from tests.experiments import matrix
from tests.test_parallel import needs_deepspeed

FEW = ["benchmark.steps=3", "benchmark.warmup=1", "batch.global=4", "batch.micro=2"]


def measure(folder: Path, *words: str) -> None:
    where = [f"paths.outputs='{folder}'", f"paths.data='{folder}/nothing'"]
    command = [sys.executable, "-m", "launchers.benchmark", *FEW, *where, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def record(folder: Path) -> Any:
    (path,) = folder.glob("*/benchmark_*/benchmark.json")
    return json.loads(path.read_text())


def test_a_record_and_a_comparison_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(folder: Path, *words: str) -> None:
        where = [f"paths.outputs='{folder}'", f"paths.data='{folder}/nothing'"]
        monkeypatch.setattr(sys, "argv", ["benchmark", *FEW, *where, *words])
        GlobalHydra.instance().clear()
        run(benchmark.main, config_name="config")

    here(tmp_path / "first")
    printed = capsys.readouterr().out
    for word in ("video_chatgpt_tiny, 1 x cpu", "seconds a step", "tokens a second", "waiting for data"):
        assert word in printed
    found = record(tmp_path / "first")
    assert found["figures"]["steps"] == 3
    assert found["what"]["experiment"] == "video_chatgpt_tiny"
    assert found["figures"]["peak_share"] is None
    assert 0 <= found["figures"]["waiting_share"] < 1
    found["figures"]["step_seconds"] /= 1000
    (tmp_path / "faster.json").write_text(json.dumps(found))
    with pytest.raises(SystemExit, match="times as long as before"):
        here(tmp_path / "second", f"benchmark.against='{tmp_path}/faster.json'", "benchmark.slower=0.5")
    found["what"]["micro"] = 99
    (tmp_path / "other.json").write_text(json.dumps(found))
    with pytest.raises(SystemExit, match="micro was 99"):
        here(tmp_path / "third", f"benchmark.against='{tmp_path}/other.json'")
    assert not list((tmp_path / "third").rglob("benchmark.json"))  # nothing was measured
    GlobalHydra.instance().clear()


def test_slower_is_of_a_record(tmp_path: Path) -> None:
    words = ["benchmark.slower=0.5", f"paths.run='{tmp_path}'", f"paths.data='{tmp_path}'"]
    with pytest.raises(ConfigError, match=r"benchmark\.against"):
        benchmark.main(compose("experiment=video_chatgpt_tiny", *words))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", matrix())
def test_every_tiny_experiment(experiment: str, tmp_path: Path) -> None:
    measure(tmp_path, f"experiment={experiment}")
    found = record(tmp_path)["figures"]
    assert found["samples_per_second"] > 0
    assert found["tflop_per_sample"] > 0
    assert found["estimated_bytes"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hardware", "strategy"),
    [
        ("a100x8", "DDPStrategy"),
        ("a100x8_fsdp", "FullySharded"),
        pytest.param("a100x8_zero2", "Zero", marks=needs_deepspeed),
    ],
)
def test_two_processes(hardware: str, strategy: str, tmp_path: Path) -> None:
    two = ["hw=cpu", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    measure(tmp_path, f"hardware={hardware}", *two, "data.num_workers=1", "data.pin_memory=false", "batch.micro=1")
    found = record(tmp_path)
    assert (found["what"]["devices"], found["what"]["strategy"]) == (2, strategy)


@pytest.mark.slow
def test_real_rows(shapes: Path, tmp_path: Path) -> None:
    measure(tmp_path, "benchmark.data=real", "prepare=[]", f"paths.data='{shapes}'")
    assert record(tmp_path)["what"]["data"] == "real"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "expected"),
    [("pix2pix_video", 0.538), ("video_chatgpt", 15.8), ("llava_video", 180.7)],
)
def test_operations_of_published_sizes(experiment: str, expected: float) -> None:
    """TFLOP a sample by arithmetic over the lengths of the batch, with the masked half of the attention.

    llava_video at 3,800 positions: blocks 147.7, their attention 22.7, vision 9.6, projector .5, head at 60 targets .2.
    """
    cfg = compose(f"experiment={experiment}", "hardware=h200", "++batch.micro_on.gpu141=1", "paths.run=unused")
    tree = memory_run(cfg).tree
    batch = build(tree["data"]).synthetic_batch(1)
    found = model_operations(lambda: build(once(unloaded(tree["model"]))), batch) / 1e12
    assert found == pytest.approx(expected, rel=0.06)
