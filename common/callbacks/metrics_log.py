"""What a run reports: where it writes; of a step the global loss, learning rates and speed; and each validation."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from common.loggers import described

log = logging.getLogger(__name__)


class MetricsLog(Callback):
    """Logs `train/loss` and the like every few steps, the loss summed over micro-batches and averaged over ranks.

    The loss stays on the device until a step is logged, so that no other step waits for it. Modules log their `val/`
    metrics with `logger=False`, and this callback writes them under the number of optimizer steps done, which
    Lightning's own logging misses by one.
    """

    def __init__(self, *, every: int) -> None:
        """
        Args:
            every: optimizer steps between two rows.
        """
        if every < 1:
            raise ValueError(f"callbacks.metrics_log.every={every}: at least 1")
        self.every = every
        self._loss: Tensor | None = None
        self._clock = 0.0
        self._clock_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            log.info(described(trainer.loggers, Path(trainer.default_root_dir)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loss, self._clock, self._clock_step = None, time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        micro = outputs["loss"].detach()  # already divided by the number of micro-batches
        self._loss = micro if self._loss is None else self._loss + micro
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        loss, self._loss = self._loss, None
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps:
            self._write(trainer, loss, step)

    def _write(self, trainer: Trainer, loss: Tensor, step: int) -> None:
        mean = trainer.strategy.reduce(loss, reduce_op="mean")
        assert isinstance(mean, Tensor)
        now = time.monotonic()
        data = trainer.datamodule  # type: ignore[attr-defined]
        seen = data.samples(step) - data.samples(self._clock_step)
        metrics = {"train/loss": float(mean), "train/samples_per_second": seen / max(now - self._clock, 1e-9)}
        for group in trainer.optimizers[0].param_groups:
            metrics[f"lr/{group['name']}"] = float(group["lr"])
        if torch.cuda.is_available():
            metrics["train/peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._clock, self._clock_step = now, step
        _log(trainer, metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            scores = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
            _log(trainer, {name: float(value) for name, value in scores.items()})
            self._clock, self._clock_step = time.monotonic(), trainer.global_step


def _log(trainer: Trainer, metrics: dict[str, float]) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)
