"""What the tests of faults share: an unharmed run of each experiment, and one count of all faults."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.ledger import Ledger, asked, outcome, write_section
from tests.faults.lives import Life


class Unharmed:
    """A run that nothing happened to: what it ended with, and how long it took."""

    def __init__(self, experiment: str, data: Path, run: Path) -> None:
        self.experiment = experiment
        self.overrides = (f"experiment={experiment}", f"paths.data='{data}'")
        life = Life(run, *self.overrides)
        life.wait_for("forward and backward")
        started = life.age()
        assert life.wait() == 0, life.said()
        self.training_seconds = life.age() - started
        self.seconds = life.age()
        self.outcome: dict[str, Any] = outcome(run)


@pytest.fixture(scope="session")
def unharmed(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Unharmed]:
    """The unharmed run of an experiment; each is made once."""
    made: dict[str, Unharmed] = {}

    def of(experiment: str) -> Unharmed:
        if experiment not in made:
            made[experiment] = Unharmed(experiment, shapes, tmp_path_factory.mktemp("unharmed") / "run")
        return made[experiment]

    os.environ["OMP_NUM_THREADS"] = "1"
    return of


@pytest.fixture(scope="session")
def ledger(pytestconfig: pytest.Config) -> Iterator[Ledger]:
    """Of all tests of faults in this session."""
    place = asked()
    counted = Ledger(place)
    yield counted
    if place is not None:
        write_section(place)
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    for line in ["", *counted.lines()]:
        reporter.write_line(line)
