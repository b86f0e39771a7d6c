"""Progress of a run: a bar on a terminal, one line a minute anywhere else."""

import logging
import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from common.progress import LINE_EVERY_SECONDS, line

log = logging.getLogger(__name__)


def progress() -> Callback:
    """The progress report that fits where standard error goes."""
    return RichProgressBar(leave=True) if sys.stderr.isatty() else ProgressLines()


class ProgressLines(Callback):
    """Logs steps done, rate and time left once a minute, from rank 0."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = self._last = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        now = time.monotonic()
        if trainer.is_global_zero and now - self._last >= LINE_EVERY_SECONDS:
            self._last = now
            done, total = trainer.global_step - self._first_step, trainer.max_steps - self._first_step
            log.info(line("steps", done=done, total=total, seconds=now - self._start))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
            log.info("step %d: %s", trainer.global_step, ", ".join(f"{k} {v:.4f}" for k, v in sorted(scores.items())))
