"""A killed run goes on as if nothing had happened, also with another number of processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from common.callbacks.stopping import EXIT_STOPPED
from common.checkpoint import committed, load_file, locate
from common.loggers import read_metrics
from tests.experiments import matrix
from tests.stages import first_stage
from tests.test_parallel import WAYS, averages, needs_deepspeed, without_average

pytestmark = pytest.mark.slow

# 10 steps of 8 rows in micro-batches of 2, a checkpoint every 3 steps, validation every 5.
SMALL = [
    "steps=10",
    "validate_every=5",
    "batch.global=8",
    "batch.micro=2",
    "batch.eval=16",
    "callbacks.checkpointing.every=3",
    "callbacks.metrics_log.every=1",
    "hydra.job.name=train",
]

METHODS = matrix()


def train(folder: Path, *overrides: str, fault: str = "none:0", ids: Path | None = None) -> int:
    environment = os.environ | {"FAULT": fault, "OMP_NUM_THREADS": "1"} | ({"IDS_LOG": str(ids)} if ids else {})
    command = [sys.executable, "-m", "tests.train_with_faults", *SMALL, *overrides, f"paths.outputs={folder}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, -signal.SIGKILL, EXIT_STOPPED):
        raise AssertionError(done.stdout[-3000:] + done.stderr[-6000:])
    return done.returncode


def run_of(folder: Path) -> Path:
    return locate("last", folder).parents[1]


def losses(folder: Path) -> dict[str, dict[int, float]]:
    table = read_metrics(run_of(folder) / "metrics.csv")
    return {name: values for name, values in table.items() if name.endswith("loss") or name.startswith("lr/")}


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest, shapes: Path) -> list[str]:
    """Overrides that choose a tiny method and its data."""
    return [f"experiment={request.param}", f"paths.data={shapes}", "prepare=[]", *first_stage(request.param, shapes)]


@pytest.fixture(scope="module")
def whole(method: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder, *method, ids=folder / "ids") == 0
    return folder


FAULTS = {
    "in accumulation": "micro:18",  # the second of the four micro-batches of step 5
    "before the optimizer step": "before:7",
    "after the optimizer step": "after:7",
    "in validation": "validation:1",
    "while saving": "write:2",
    "between rename and manifest": "commit:2",
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_killed_and_resumed_is_bit_equal(fault: str, method: list[str], whole: Path, tmp_path: Path) -> None:
    assert train(tmp_path, *method, fault=fault) == -signal.SIGKILL
    assert train(tmp_path, *method, "ckpt=last") == 0
    assert len(list(tmp_path.glob("*/*/checkpoints"))) == 1  # the same run folder
    assert losses(tmp_path) == losses(whole)
    last, other = (committed(run_of(folder) / "checkpoints")[-1] for folder in (tmp_path, whole))
    assert last.name == other.name == "step_0000010.ckpt"
    ours, reference = load_file(last), load_file(other)
    for part in ("state_dict", "optimizer_states"):
        assert_equal(ours[part], reference[part], part)
    assert_equal(averages(ours), averages(reference), "average")


def assert_equal(ours: Any, reference: Any, name: str) -> None:
    """Bit for bit, however nested."""
    if isinstance(reference, torch.Tensor):
        assert torch.equal(ours, reference), name
    elif isinstance(reference, Mapping):
        assert ours.keys() == reference.keys(), name
        for key, value in reference.items():
            assert_equal(ours[key], value, f"{name} {key}")
    elif isinstance(reference, list):
        assert len(ours) == len(reference), name
        for number, value in enumerate(reference):
            assert_equal(ours[number], value, f"{name} {number}")
    else:
        assert ours == reference, name


def test_sigterm_saves_at_the_next_step_and_stops(method: list[str], whole: Path, tmp_path: Path) -> None:
    assert train(tmp_path, *method, fault="term:17") == EXIT_STOPPED  # in step 5
    assert committed(run_of(tmp_path) / "checkpoints")[-1].name == "step_0000005.ckpt"
    assert train(tmp_path, *method, "ckpt=last") == 0
    assert losses(tmp_path) == losses(whole)


@pytest.mark.parametrize("way", ["ddp", "fsdp", pytest.param("zero2", marks=needs_deepspeed)])
def test_processes_may_change_on_the_way(way: str, method: list[str], whole: Path, tmp_path: Path) -> None:
    two = WAYS[way]
    if way == "zero2" and without_average(method[0]):
        pytest.skip("DeepSpeed keeps no average of the weights, and a run goes on with the callbacks it began with")
    ids = tmp_path / "ids"
    assert train(tmp_path, *method, fault="micro:13", ids=ids) == -signal.SIGKILL  # after step 3
    assert train(tmp_path, *method, "ckpt=last", *two, fault="micro:17", ids=ids) != 0  # to step 6
    assert train(tmp_path, *method, "ckpt=last", ids=ids) == 0
    ours, reference = losses(tmp_path), losses(whole)
    assert ours.keys() == reference.keys()
    for name, values in reference.items():
        assert ours[name].keys() == values.keys()
        for step, value in values.items():
            assert ours[name][step] == pytest.approx(value, rel=2e-5, abs=1e-6), (name, step)
    assert rows_by_step(ids) == rows_by_step(whole / "ids")
    weights, others = (load_file(locate("last", each))["state_dict"] for each in (tmp_path, whole))
    assert weights.keys() == others.keys()
    for name, value in others.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=2e-5, msg=name)


def rows_by_step(ids: Path) -> dict[int, set[int]]:
    """Rows of each step over all ranks; a step that was done twice must have been done with the same rows."""
    steps: dict[int, set[int]] = {}
    for path in ids.parent.glob(f"{ids.name}.*"):
        for line in path.read_text().splitlines():
            step, *rows = map(int, line.split())
            steps.setdefault(step, set()).update(rows)
    return steps


def test_another_experiment_is_refused(method: list[str], whole: Path) -> None:
    with pytest.raises(AssertionError, match=r"model\.weight_decay was 0\.\d+, is 0\.1"):
        train(whole, *method, "ckpt=last", "model.weight_decay=0.1")
    with pytest.raises(AssertionError, match="seed was 0, is 1"):
        train(whole, *method, "ckpt=last", "seed=1")
