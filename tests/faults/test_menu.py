"""Each kind of fault, put into a real training process: how it ends, and that nothing is lost when the run goes on."""

import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.experiments import in_turn, one_of_each
from tests.faults import damage, inject
from tests.faults.conftest import Unharmed
from tests.faults.ledger import Ledger, equal, newest_step, outcome
from tests.faults.lives import Life
from tests.faults.menu import DEAD, MENU, Kind, at_step_six, wait_for_step

pytestmark = pytest.mark.slow
Given = Callable[[str], Unharmed]
KINDS = pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.name, marks=in_turn(number)) for number, kind in enumerate(MENU)]
)
EXPERIMENTS = pytest.mark.parametrize("experiment", one_of_each())


def goes_on(run: Path, unharmed: Unharmed, *, before: int) -> tuple[bool, str]:
    """Whether the run still has the step that it had, and ends as the unharmed one; and what it said."""
    kept = newest_step(run) >= before
    life = Life(run, *unharmed.overrides)
    status, said = life.wait(), life.said()
    return kept and status == 0 and equal(outcome(run), unharmed.outcome), said


@EXPERIMENTS
@KINDS
def test_a_fault_loses_nothing(kind: Kind, experiment: str, unharmed: Given, ledger: Ledger, tmp_path: Path) -> None:
    reference, run = unharmed(experiment), tmp_path / "run"
    life = Life(run, *reference.overrides, *kind.overrides, fault=kind.fault)
    if kind.outside is not None:
        kind.outside(life)
    status = life.wait()
    before = newest_step(run)
    assert (status, bool(re.search(kind.said, life.said(), re.DOTALL))) == (kind.status, True), life.said()[-4000:]
    assert 0 < before <= 8
    if kind.damage is not None:
        kind.damage(run)
        before -= 2  # the checkpoint before the damaged one
    held, said = goes_on(run, reference, before=before)
    ledger.count(kind.name, experiment=experiment, lost=not held)
    assert held, said[-4000:]
    assert re.search(kind.warned, said), said[-4000:]
    assert not list((run / "checkpoints").glob(".*"))


@EXPERIMENTS
@pytest.mark.parametrize(
    ("change", "answer"),
    [("seed=1", "seed was 0, is 1"), ("steps=9", "steps was 8, is 9"), ("batch.global=8", "batch.global was 4, is 8")],
    ids=["other seed", "other steps", "other batch"],
)
def test_a_resumption_with_other_settings_is_refused(
    change: str, answer: str, experiment: str, unharmed: Given, ledger: Ledger, tmp_path: Path
) -> None:
    reference, run = unharmed(experiment), tmp_path / "run"
    first = Life(run, *reference.overrides, fault=inject.Slow(0.1))
    at_step_six(first)
    assert first.wait() == DEAD, first.said()
    wrong = Life(run, *reference.overrides, change)
    assert wrong.wait() == 1
    assert answer in wrong.said()
    held, said = goes_on(run, reference, before=6)
    ledger.count("resumption with other settings", experiment=experiment, lost=not held)
    assert held, said[-4000:]


@EXPERIMENTS
@pytest.mark.parametrize(
    "harm", [damage.truncate_shards, damage.flip_bits_of_shards], ids=["truncated", "bits flipped"]
)
def test_a_damaged_shard_of_the_data_is_named(
    harm: Callable[[Path], None], experiment: str, unharmed: Given, shapes: Path, ledger: Ledger, tmp_path: Path
) -> None:
    reference, run, data = unharmed(experiment), tmp_path / "run", tmp_path / "data"
    first = Life(run, *reference.overrides, fault=inject.Slow(0.1))
    wait_for_step(first, 2)
    first.signal(signal.SIGKILL)
    assert first.wait() == DEAD, first.said()
    before = newest_step(run)
    shutil.copytree(shapes, data)
    harm(data)
    second = Life(run, *reference.overrides, f"paths.data='{data}'")
    assert second.wait() == 1, second.said()
    assert re.search(r"shard_\d{5}\.safetensors is damaged .* run the preparation task again", second.said(), re.DOTALL)
    held, said = goes_on(run, reference, before=before)
    what = "truncated" if harm is damage.truncate_shards else "with flipped bits"
    ledger.count(f"shards of the data {what}", experiment=experiment, lost=not held)
    assert held, said[-4000:]


@EXPERIMENTS
@pytest.mark.parametrize("asleep", [True, False], ids=["asleep", "awake"])
def test_of_two_lives_of_a_run_the_older_stops(
    asleep: bool, experiment: str, unharmed: Given, ledger: Ledger, tmp_path: Path
) -> None:
    reference, run = unharmed(experiment), tmp_path / "run"
    older = Life(run, *reference.overrides, fault=inject.Slow(0.05 if asleep else 3.0))
    if asleep:
        wait_for_step(older, 2)
        older.wait_for("forward and backward")
        older.signal(signal.SIGSTOP)
    else:
        wait_for_step(older, 2)
    newer = Life(run, *reference.overrides)
    assert newer.wait() == 0, newer.said()
    if asleep:
        older.signal(signal.SIGCONT)
    assert older.wait() == 1, older.said()
    assert "start 2 has taken this run over; start 1 stops without writing" in older.said()
    held = equal(outcome(run), reference.outcome) and newest_step(run) == 8
    fault = f"two lives of a run, the older {'asleep' if asleep else 'awake'}"
    ledger.count(fault, experiment=experiment, lost=not held)
    assert held


@EXPERIMENTS
def test_a_copy_that_sleeps_within_a_save_does_not_spoil_it(
    experiment: str, unharmed: Given, ledger: Ledger, tmp_path: Path
) -> None:
    reference, run = unharmed(experiment), tmp_path / "run"
    older = Life(run, *reference.overrides, fault=inject.SleepsWhileSaving(2))
    wait_for_step(older, 2)
    while not (run / "asleep").exists():
        time.sleep(0.01)
    newer = Life(run, *reference.overrides)
    assert newer.wait() == 0, newer.said()
    (run / "asleep").unlink()
    assert older.wait() == 1, older.said()
    assert "has taken this run over" in older.said()
    held = equal(outcome(run), reference.outcome) and newest_step(run) == 8
    ledger.count("two lives of a run, the older within a save", experiment=experiment, lost=not held)
    assert held
    assert not list((run / "checkpoints").glob(".*"))
