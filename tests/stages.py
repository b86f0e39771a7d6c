"""What an experiment that is a second stage needs in a test: a first one, trained for two steps on the same data."""

import tempfile
from functools import cache
from pathlib import Path

from launchers import train
from launchers.command import compose

FEW_QUESTIONS = ["model.scores.val.zero_shot.count=40", "model.scores.test.zero_shot.count=40"]


def first_stage(experiment: str, data: Path) -> list[str]:
    """Overrides that name a first stage and ask the tower little; none for an experiment that needs no other.

    Args:
        experiment: a tiny one.
        data: data root that holds what the first stage reads.
    """
    stage1 = compose(f"experiment={experiment}", "paths.run=.").model.get("stage1")
    return [] if stage1 is None else [f"model.stage1='{_trained(Path(stage1).name, data)}'", *FEW_QUESTIONS]


@cache
def _trained(experiment: str, data: Path) -> Path:
    """Run folder of an experiment beside its data, trained once a process."""
    run = Path(tempfile.mkdtemp(prefix=f"{experiment}-", dir=data.parent))
    small = ["steps=2", "validate_every=2", "batch.global=4", "batch.micro=2", "batch.eval=8", "prepare=[]"]
    train.main(compose(f"experiment={experiment}", *small, f"paths.data='{data}'", f"paths.run='{run}'"))
    return run
