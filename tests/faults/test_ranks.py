"""Faults of one process of two: both stop, none writes, and the run goes on."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from common.callbacks.finite import RECORD
from common.callbacks.stopping import EXIT_STOPPED
from common.checkpoint import committed, load_file, read_manifest
from common.loggers import read_metrics
from tests.experiments import in_turn, one_of_each
from tests.faults.ledger import Ledger
from tests.test_parallel import WAYS, needs_deepspeed, without_average
from tests.test_resume import run_of, train

pytestmark = pytest.mark.slow


EXPERIMENTS = pytest.mark.parametrize("experiment", one_of_each())


@pytest.fixture
def method(experiment: str, shapes: Path) -> list[str]:
    """Overrides that choose a tiny method and its data."""
    return [f"experiment={experiment}", f"paths.data={shapes}", "prepare=[]"]


@pytest.fixture
def second_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults happen to rank 1 alone."""
    monkeypatch.setitem(os.environ, "FAULT_RANK", "1")


def finishes(folder: Path, *overrides: str) -> bool:
    """Whether the run goes on to its end, every step reported."""
    assert train(folder, *overrides, "ckpt=last") == 0
    last = committed(run_of(folder) / "checkpoints")[-1]
    losses = read_metrics(run_of(folder) / "metrics.csv")["train/loss"]
    return load_file(last)["global_step"] == 10 and sorted(losses) == list(range(1, 11))


@EXPERIMENTS
@pytest.mark.usefixtures("second_rank")
@pytest.mark.parametrize(
    "way",
    [
        pytest.param("ddp", marks=in_turn(0)),
        pytest.param("fsdp", marks=in_turn(1)),
        pytest.param("zero2", marks=needs_deepspeed),
    ],
)
def test_a_loss_of_one_rank_that_is_not_finite_stops_all(
    way: str, experiment: str, method: list[str], ledger: Ledger, tmp_path: Path
) -> None:
    chosen = [*method, *WAYS[way], *(without_average(method[0]) if way == "zero2" else [])]
    told = r"step 5 is not finite: loss of rank 1, micro-batch 2, samples \S+\. The optimizer has not used it"
    with pytest.raises(AssertionError, match=told):
        train(tmp_path, *chosen, fault="nan:18")  # the second of the four micro-batches of step 5
    run = run_of(tmp_path)
    (found,) = json.loads((run / RECORD).read_text())["findings"]
    assert (found["rank"], found["what"], found["micro_batches"], len(found["samples"])) == (1, "loss", [1], 1)
    assert [path.name for path in committed(run / "checkpoints")] == ["step_0000003.ckpt"]
    assert sorted(read_metrics(run / "metrics.csv")["train/loss"]) == [1, 2, 3, 4]
    held = finishes(tmp_path, *chosen)
    ledger.count(f"loss of one rank of two is not a number ({way})", experiment=experiment, lost=not held)
    assert held


@EXPERIMENTS
@pytest.mark.usefixtures("second_rank")
@pytest.mark.parametrize("way", [pytest.param("ddp", marks=in_turn(2)), pytest.param("zero2", marks=needs_deepspeed)])
def test_a_gradient_of_one_rank_that_is_not_finite_stops_all(
    way: str, experiment: str, method: list[str], ledger: Ledger, tmp_path: Path
) -> None:
    chosen = [*method, *WAYS[way], *(without_average(method[0]) if way == "zero2" else [])]
    with pytest.raises(AssertionError, match=r"step 5 is not finite: gradients of rank"):
        train(tmp_path, *chosen, fault="gradient:18")
    run = run_of(tmp_path)
    assert [path.name for path in committed(run / "checkpoints")] == ["step_0000003.ckpt"]
    held = finishes(tmp_path, *chosen)
    ledger.count(f"gradient of one rank of two is infinite ({way})", experiment=experiment, lost=not held)
    assert held


@EXPERIMENTS
@pytest.mark.usefixtures("second_rank")
@pytest.mark.parametrize(
    "way", [pytest.param("ddp", marks=pytest.mark.nightly), pytest.param("fsdp", marks=in_turn(3))]
)
def test_a_signal_to_one_rank_in_validation_stops_both(
    way: str, experiment: str, method: list[str], ledger: Ledger, tmp_path: Path
) -> None:
    chosen = [*method, *WAYS[way], "batch.eval=1"]  # of a validation of one batch the end is waited for
    assert train(tmp_path, *chosen, fault="ask:1") == EXIT_STOPPED  # in the validation of step 5
    checkpoints = run_of(tmp_path) / "checkpoints"
    assert [path.name for path in committed(checkpoints)] == ["step_0000003.ckpt", "step_0000005.ckpt"]
    assert read_manifest(checkpoints / "step_0000005.ckpt").score is None
    assert 5 not in read_metrics(run_of(tmp_path) / "metrics.csv").get("val/loss", {})
    held = finishes(tmp_path, *chosen) and 5 in read_metrics(run_of(tmp_path) / "metrics.csv")["val/loss"]
    ledger.count(f"SIGTERM to one rank of two in validation ({way})", experiment=experiment, lost=not held)
    assert held


@in_turn(4)
@EXPERIMENTS
@pytest.mark.usefixtures("second_rank")
def test_a_rank_that_is_killed_ends_the_run(experiment: str, method: list[str], ledger: Ledger, tmp_path: Path) -> None:
    with contextlib.suppress(AssertionError):  # rank 0 meets a closed connection, if it is not killed before that
        assert train(tmp_path, *method, *WAYS["ddp"], fault="micro:18") == -signal.SIGKILL
    assert [path.name for path in committed(run_of(tmp_path) / "checkpoints")] == ["step_0000003.ckpt"]
    held = finishes(tmp_path, *method, *WAYS["ddp"])
    ledger.count("one rank of two is killed", experiment=experiment, lost=not held)
    assert held
