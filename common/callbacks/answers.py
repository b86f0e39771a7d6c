"""A few fixed rows, answered at each validation, beside their truths and the frames they are about."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from common.data.conversations import DataError
from common.files import atomic_write_bytes, write_jsonl
from common.loggers import log_answers, log_sheets
from common.video.decode import VideoReadError
from common.video.sheet import contact_sheet

log = logging.getLogger(__name__)
FOLDER = "samples"
SHOWN = 16  # frames on a sheet


class ShownRows(Protocol):
    """What the validation rows of a method that answers have beside the rest."""

    def __len__(self) -> int: ...

    def shown(self, number: int) -> Tensor | None:
        """Frames of a row as the model sees them, uint8 (T, C, H, W); None for a row without a video."""


@runtime_checkable
class AnswersRows(Protocol):
    """What the module of a method that answers has."""

    def answer_rows(self, rows: Any, numbers: Sequence[int]) -> list[dict[str, str | None]]:
        """Answers rows, the most likely token first, each as it would be answered alone.

        Args:
            rows: the validation rows, `datamodule.rows("val")`.
            numbers: of those to answer.

        Returns:
            One line each, with at least `id`, `video`, `question`, `answer` (the truth) and `pred`.
        """


class Answers(Callback):
    """Writes `samples/step_0000500.jsonl` in the run folder after each validation, and hands it to the loggers.

    The rows are the first of the validation set, always the same. The frames of each are written once per start, as
    one picture: `samples/row_0000.png` belongs to the first line. Every rank answers all of them: where parameters are
    sharded a rank alone could not, and where they are not the others would wait anyway. Only rank 0 writes. No random
    number is taken from training.

    A method takes part by two functions, `answer_rows` of its module and `shown` of its rows, and its experiment by
    `override /callbacks: answers`; `common.chat.samples` has what chat methods share.
    """

    def __init__(self, *, run: str, count: int) -> None:
        """
        Args:
            run: the run folder.
            count: rows that are answered, at least 1.
        """
        if count < 1:
            raise ValueError(f"callbacks.answers.count={count}: at least 1; callbacks=default answers none")
        self.folder = Path(run) / FOLDER
        self.count = count
        self._drawn = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not isinstance(pl_module, AnswersRows):
            raise ValueError(f"{type(pl_module).__name__} does not answer (answer_rows); take callbacks=default")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before the checkpoint: a run that is stopped in between validates again, and parameters are still gathered.
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        rows = trainer.datamodule.rows("val")  # type: ignore[attr-defined]
        numbers = range(min(self.count, len(rows)))
        lines = self._answer(trainer, pl_module, rows, numbers)
        if trainer.is_global_zero:
            self._write(trainer, numbers, lines)
            if not self._drawn:
                self._draw(trainer, rows, numbers)
        self._drawn = True

    @staticmethod
    def _answer(trainer: Trainer, module: LightningModule, rows: Any, numbers: Sequence[int]) -> list[dict[str, Any]]:
        assert isinstance(module, AnswersRows)
        devices = [module.device] if module.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), trainer.precision_plugin.val_step_context():
            return module.answer_rows(rows, list(numbers))

    def _write(self, trainer: Trainer, numbers: Sequence[int], lines: list[dict[str, Any]]) -> None:
        step = trainer.global_step
        write_jsonl(self.folder / f"step_{step:07d}.jsonl", lines)
        for logger in trainer.loggers:
            log_answers(logger, lines, step=step)

    def _draw(self, trainer: Trainer, rows: ShownRows, numbers: Sequence[int]) -> None:
        sheets: dict[str, Image.Image] = {}
        for number in numbers:
            try:
                frames = rows.shown(number)
            except (DataError, VideoReadError) as error:  # training may read cached features where no clip is
                log.warning("no picture of validation row %d: %s", number, error)
                continue
            if frames is None:
                continue
            name = f"row_{number:04d}"
            sheets[name] = contact_sheet(frames, most=SHOWN)
            atomic_write_bytes(self.folder / f"{name}.png", _png(sheets[name]))
        for logger in trainer.loggers:
            log_sheets(logger, sheets, step=trainer.global_step)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
