"""A few fixed rows, answered at each validation, beside their truths and the frames they are about."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from lightning import LightningModule, Trainer
from PIL import Image
from torch import Tensor

from common.callbacks.fixed_rows import FixedRows, png
from common.data.conversations import DataError
from common.files import atomic_write_bytes, write_jsonl
from common.loggers import log_answers, log_sheets
from common.video.decode import VideoReadError
from common.video.sheet import contact_sheet

log = logging.getLogger(__name__)
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


class Answers(FixedRows[dict[str, str | None]]):
    """Writes `samples/step_0000500.jsonl` in the run folder after each validation, and hands it to the loggers.

    The frames of each row are written once per start, as one picture: `samples/row_0000.png` belongs to the first
    line. See `FixedRows`. A method takes part by two functions, `answer_rows` of its module and `shown` of its rows,
    and its experiment by `override /callbacks: answers`; `common.chat.samples` has what chat methods share.
    """

    def __init__(self, *, run: str, count: int) -> None:
        """
        Args:
            run: the run folder.
            count: rows that are answered, at least 1.
        """
        super().__init__(run=run, count=count)
        self._drawn = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not isinstance(pl_module, AnswersRows):
            raise ValueError(f"{type(pl_module).__name__} does not answer (answer_rows); take callbacks=default")

    def predict(self, module: LightningModule, rows: Any, numbers: Sequence[int]) -> list[dict[str, str | None]]:
        assert isinstance(module, AnswersRows)
        return module.answer_rows(rows, list(numbers))

    def write(
        self, trainer: Trainer, rows: Any, numbers: Sequence[int], predicted: Sequence[dict[str, str | None]]
    ) -> None:
        step = trainer.global_step
        write_jsonl(self.folder / f"step_{step:07d}.jsonl", predicted)
        for logger in trainer.loggers:
            log_answers(logger, predicted, step=step)
        if not self._drawn:
            self._draw(trainer, rows, numbers)
        self._drawn = True

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
            atomic_write_bytes(self.folder / f"{name}.png", png(sheets[name]))
        for logger in trainer.loggers:
            log_sheets(logger, sheets, step=trainer.global_step)
