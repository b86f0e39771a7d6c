"""SIGKILL at random instants: whatever was committed stays, and the run ends with the bits of an unharmed one."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.experiments import one_of_each
from tests.faults.conftest import Unharmed
from tests.faults.ledger import Ledger, equal, newest_step, outcome
from tests.faults.lives import STEPS, Life

pytestmark = pytest.mark.slow
KIND = "SIGKILL at a random instant"
KILLS = 20
ALL_KILLS = 200  # of a nightly run, over all methods


def strike(life: Life, unharmed: Unharmed, chance: random.Random, *, done: float) -> str:
    """Kills at a random instant, one in four of the whole life, the others while it trains; in which phase, or "".

    Args:
        life: to be ended.
        unharmed: how long a life takes.
        chance: random numbers.
        done: part of the run that is behind this life.
    """
    left = unharmed.training_seconds * (1 - done)
    if chance.random() < 0.25:
        time.sleep(chance.uniform(0, unharmed.seconds - unharmed.training_seconds + left))
    else:
        life.wait_for("forward and backward")
        time.sleep(chance.uniform(0, left))
    life.signal(signal.SIGKILL)
    return life.phase() if life.wait() == -signal.SIGKILL else ""


def kill_and_resume(kills: int, unharmed: Unharmed, folder: Path, ledger: Ledger) -> Counter[str]:
    """Runs, kills and resumes until so many kills have hit; in which phases they did."""
    chance = random.Random(kills)
    hit: Counter[str] = Counter()
    number, before = 0, 0
    while hit.total() < kills:
        run = folder / f"run_{number}"
        life = Life(run, *unharmed.overrides)
        phase = strike(life, unharmed, chance, done=before / STEPS)
        now = newest_step(run)
        if phase:
            hit[phase] += 1
            ledger.count(KIND, experiment=unharmed.experiment, lost=now < before)
            before = now
        else:  # it was done before
            finish(life, unharmed, run, ledger)
            number, before = number + 1, 0
    finish(Life(run, *unharmed.overrides), unharmed, run, ledger)
    return hit


def finish(life: Life, unharmed: Unharmed, run: Path, ledger: Ledger) -> None:
    assert life.wait() == 0, life.said()
    held = equal(outcome(run), unharmed.outcome)
    ledger.count(KIND, experiment=unharmed.experiment, lost=not held, injected=0)


@pytest.mark.parametrize("experiment", one_of_each())
def test_killed_at_random_instants(
    experiment: str, unharmed: Callable[[str], Unharmed], ledger: Ledger, tmp_path: Path
) -> None:
    hit = kill_and_resume(KILLS, unharmed(experiment), tmp_path, ledger)
    print(f"{experiment}: {KILLS} kills: " + ", ".join(f"{times} {phase}" for phase, times in hit.items()))
    assert ledger.lost(KIND) == 0


@pytest.mark.nightly
@pytest.mark.parametrize("experiment", one_of_each())
def test_killed_at_many_random_instants(
    experiment: str, unharmed: Callable[[str], Unharmed], ledger: Ledger, tmp_path: Path
) -> None:
    hit = kill_and_resume(-(-ALL_KILLS // len(one_of_each())), unharmed(experiment), tmp_path, ledger)
    print(f"{experiment}: " + ", ".join(f"{times} {phase}" for phase, times in hit.items()))
    assert ledger.lost(KIND) == 0
