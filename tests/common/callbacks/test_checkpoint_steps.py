"""At which steps a run is saved."""

from pathlib import Path

import pytest
from lightning import Trainer

from common.callbacks.checkpointing import Checkpointing
from common.callbacks.metrics_log import MetricsLog
from common.checkpoint import committed
from tests.common.callbacks.toy_run import Numbers, Toy


def test_every_so_many_steps_some_others_and_the_last(tmp_path: Path) -> None:
    saving = Checkpointing(
        run=str(tmp_path), every=3, also=[1, 4], keep_last=9, keep_best=0, objective="val/loss", direction="min"
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=7,
        limit_val_batches=0,
        callbacks=[saving],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Toy(), datamodule=Numbers())
    assert [int(path.stem.removeprefix("step_")) for path in committed(tmp_path / "checkpoints")] == [1, 3, 4, 6, 7]


def test_every_nought_steps_is_never() -> None:
    with pytest.raises(ValueError, match="validate_every"):
        Checkpointing(run="x", every=0, keep_last=1, keep_best=0, objective="val/loss", direction="min")
    with pytest.raises(ValueError, match=r"metrics_log\.every=0"):
        MetricsLog(every=0)
