"""The README's table of methods and hardware is what the command writes."""

import pytest

from common.benchmark.coverage import BEGIN, END, runs
from common.config import CONF, ROOT
from launchers.coverage import RUNS, text


def test_every_run_is_of_an_experiment_and_a_machine_that_are_there() -> None:
    assert runs(RUNS)
    for run in runs(RUNS):
        assert (CONF / "experiment" / f"{run['experiment']}.yaml").is_file(), run
        assert (CONF / "hardware" / f"{run['hardware']}.yaml").is_file(), run
        assert run["dirty"] is False, run


@pytest.mark.slow
def test_the_readme_holds_what_the_command_writes() -> None:
    written = (ROOT / "README.md").read_text().partition(BEGIN)[2].partition(END)[0]
    assert written.strip() == text().strip()
