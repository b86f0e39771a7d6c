"""The first losses of every tiny experiment, at full precision, as they were recorded.

Six steps: processors with other vector units round otherwise, and training doubles such a difference with every step.
"""

import json
import os
from pathlib import Path

import pytest

from common.loggers import read_metrics
from launchers import train
from launchers.command import compose
from tests.experiments import tiny
from tests.stages import first_stage

FOLDER = Path(__file__).parent / "golden"
STEPS = 6

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("experiment", tiny("*_tiny*.yaml"))
def test_first_losses(experiment: str, shapes: Path, tmp_path: Path) -> None:
    small = [f"steps={STEPS}", f"validate_every={STEPS}", "batch.global=4", "batch.micro=2", "prepare=[]"]
    where = [f"paths.data='{shapes}'", f"paths.run='{tmp_path}'", "callbacks.metrics_log.every=1"]
    train.main(compose(f"experiment={experiment}", *small, *where, *first_stage(experiment, shapes)))
    losses = [value for _, value in sorted(read_metrics(tmp_path / "metrics.csv")["train/loss"].items())]
    path = FOLDER / f"{experiment}.json"
    if os.environ.get("FRAMELAB_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(losses, indent=0) + "\n")
    assert losses == pytest.approx(json.loads(path.read_text()), rel=5e-4)
    assert len(losses) == STEPS
