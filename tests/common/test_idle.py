"""A run that SLURM starts again and again must get on, or it stops; folders of jobs do not depend on a clock."""

from pathlib import Path

import pytest

from common.run import IdleRunError, Start, job_folder, refuse_idle
from tests.common.runs import make_run


def starts(*resumed_from: str | None) -> list[Start]:
    rest = {"command": [], "time": "", "revision": None, "dirty": None, "host": "", "python": "", "packages": {}}
    return [Start(generation=number + 1, resumed_from=each, **rest) for number, each in enumerate(resumed_from)]


@pytest.mark.parametrize(
    ("before", "now", "idle"),
    [
        ((None, None), None, 2),
        ((None, "a", "b"), "b", 1),
        ((None, "a", "b"), "c", 0),
        (("a", "b", "a"), "a", 1),
        ((), None, 0),
    ],
)
def test_starts_without_a_new_checkpoint_are_counted_from_the_last(
    before: tuple[str | None, ...], now: str | None, idle: int
) -> None:
    ckpt = Path(now) if now else None
    refuse_idle(starts(*before), ckpt, limit=idle + 1)
    if idle:
        with pytest.raises(IdleRunError, match=f"the last {idle} starts"):
            refuse_idle(starts(*before), ckpt, limit=idle)


def test_a_job_writes_within_its_sweep_or_where_its_checkpoint_lies(tmp_path: Path) -> None:
    sweep = str(tmp_path / "toy" / "sweeps" / "now")
    assert job_folder("train", str(tmp_path), "toy", None, sweep, 3) == "3"
    assert job_folder("evaluate", str(tmp_path), "toy", "none", sweep, 3) == "3"
    run = tmp_path / "toy" / "run"
    make_run(run, {})
    assert job_folder("train", str(tmp_path), "toy", "last", sweep, 3) == str(run)
    assert job_folder("evaluate", str(tmp_path), "toy", str(run), sweep, 3) == str(run / "evaluate_now_3")
