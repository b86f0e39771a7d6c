"""What callbacks share that show a few fixed rows of the validation set after each validation."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image

FOLDER = "samples"
Shown = TypeVar("Shown")


class FixedRows(Callback, ABC, Generic[Shown]):
    """Predicts the first rows of the validation set, always the same, after each validation of a training run.

    Every rank predicts all of them: where parameters are sharded a rank alone could not, and where they are not the
    others would wait anyway. Only rank 0 writes. No random number is taken from training.
    """

    def __init__(self, *, run: str, count: int) -> None:
        """
        Args:
            run: the run folder.
            count: rows that are predicted, at least 1.
        """
        if count < 1:
            name = type(self).__name__.lower()
            raise ValueError(f"callbacks.{name}.count={count}: at least 1; callbacks=default shows none")
        self.folder = Path(run) / FOLDER
        self.count = count

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before the checkpoint: a run that is stopped in between validates again, and parameters are still gathered.
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        rows = trainer.datamodule.rows("val")  # type: ignore[attr-defined]
        numbers = range(min(self.count, len(rows)))
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), trainer.precision_plugin.val_step_context():
            predicted = self.predict(pl_module, rows, numbers)
        if trainer.is_global_zero:
            self.write(trainer, rows, numbers, predicted)

    @abstractmethod
    def predict(self, module: LightningModule, rows: Any, numbers: Sequence[int]) -> list[Shown]:
        """Rows as the module predicts them; called on every rank."""

    @abstractmethod
    def write(self, trainer: Trainer, rows: Any, numbers: Sequence[int], predicted: Sequence[Shown]) -> None:
        """Into files and to the loggers; called on rank 0."""


def png(image: Image.Image) -> bytes:
    """The content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
