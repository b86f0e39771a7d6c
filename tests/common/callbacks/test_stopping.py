"""A signal stops a run between two steps, and what it interrupts is made up for."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer

from common.callbacks.stopping import EXIT_STOPPED, StopOnSignal
from common.checkpoint import committed, read_manifest
from tests.common.callbacks.toy_run import fit


class Watch(Callback):
    """Counts the batches of each validation, and sends SIGTERM at the beginning of a step (counted from 1)."""

    def __init__(self, *, term_in_step: int | None = None) -> None:
        self.term_in_step = term_in_step
        self.batches: dict[int, int] = {}

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step + 1 == self.term_in_step:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.batches[trainer.global_step] = self.batches.get(trainer.global_step, 0) + 1


def stop(folder: Path, watch: Watch) -> Path:
    """Runs until the signal; the newest checkpoint."""
    with pytest.raises(SystemExit) as ended:
        fit(folder, watch, StopOnSignal())
    assert ended.value.code == EXIT_STOPPED
    return committed(folder / "checkpoints")[-1]


def test_a_validation_that_was_due_is_made_up_for_as_a_whole(tmp_path: Path) -> None:
    first, second = Watch(term_in_step=4), Watch()
    saved = stop(tmp_path, first)
    assert saved.name == "step_0000004.ckpt"
    assert read_manifest(saved).score is None
    assert first.batches == {2: 2}
    fit(tmp_path, second, StopOnSignal(), ckpt=saved)
    assert second.batches == {4: 2, 6: 2}
    assert read_manifest(saved).score is not None
