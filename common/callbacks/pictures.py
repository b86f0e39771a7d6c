"""A few fixed rows, predicted at each validation: what the model saw, the true frame, and the predicted one."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from lightning import LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from common.callbacks.fixed_rows import FixedRows, png
from common.files import atomic_write_bytes
from common.loggers import log_sheets
from common.shapes import expect
from common.video.sample import uniform
from common.video.transform import resize

SHOWN = 8  # frames of the history, the first and the newest among them
SIDE = (96, 160)  # pixels that a frame is wide, at least and at most
GAP, BREAK = 2, 12  # pixels between frames, and before the truth
LINE = 18  # pixels, height of a line of text
PAPER, INK = 255, 0


class Picture(NamedTuple):
    """One predicted row.

    Attributes:
        title: a line, such as its instruction.
        history: frames that the model sees, uint8 (T, 3, H, W), oldest first.
        truth: uint8 (3, H, W).
        pred: uint8 (3, H, W).
    """

    title: str
    history: Tensor
    truth: Tensor
    pred: Tensor


@runtime_checkable
class PictureRows(Protocol):
    """What the module of a method that predicts pictures has."""

    def predict_pictures(self, rows: Any, numbers: Sequence[int]) -> list[Picture]:
        """Predicts rows, each as it would be predicted alone.

        Args:
            rows: the validation rows, `datamodule.rows("val")`.
            numbers: of those to predict.
        """


class Pictures(FixedRows[Picture]):
    """Writes `samples/step_0000500.png` in the run folder after each validation, and hands its lines to the loggers.

    The rows stand one below the other; see `FixedRows`. A method takes part by `predict_pictures` of its module, and
    its experiment by `override /callbacks: pictures`.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not isinstance(pl_module, PictureRows):
            raise ValueError(
                f"{type(pl_module).__name__} predicts no pictures (predict_pictures); take callbacks=default"
            )

    def predict(self, module: LightningModule, rows: Any, numbers: Sequence[int]) -> list[Picture]:
        assert isinstance(module, PictureRows)
        return module.predict_pictures(rows, list(numbers))

    def write(self, trainer: Trainer, rows: Any, numbers: Sequence[int], predicted: Sequence[Picture]) -> None:
        step = trainer.global_step
        lines = {f"row_{number:04d}": line_of(picture) for number, picture in zip(numbers, predicted, strict=True)}
        atomic_write_bytes(self.folder / f"step_{step:07d}.png", png(stacked(list(lines.values()))))
        for logger in trainer.loggers:
            log_sheets(logger, lines, step=step)


def line_of(picture: Picture) -> Image.Image:
    """One row as an image: its title, below it frames of the history, then the truth and the prediction."""
    expect(picture.history, "T C H W", name="history", C=3, dtype=torch.uint8)
    height, width = picture.history.shape[-2:]
    for name in ("truth", "pred"):
        expect(getattr(picture, name), "C H W", name=name, C=3, H=height, W=width, dtype=torch.uint8)
    count = len(picture.history)
    shown = picture.history[torch.from_numpy(uniform(count, min(count, SHOWN)))]
    frames = scaled(torch.cat([shown.cpu(), picture.truth.cpu()[None], picture.pred.cpu()[None]]))
    _, high, wide, _ = frames.shape
    lefts = [place * (wide + GAP) + (BREAK if place >= len(shown) else 0) for place in range(len(frames))]
    page = np.full((2 * LINE + high, lefts[-1] + wide, 3), PAPER, np.uint8)
    for left, frame in zip(lefts, frames, strict=True):
        page[2 * LINE :, left : left + wide] = frame
    image = Image.fromarray(page)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    draw.text((2, 2), picture.title, fill=(INK,) * 3, font=font)
    for left, label in ((0, f"{len(shown)} of {count} frames"), (lefts[-2], "truth"), (lefts[-1], "prediction")):
        draw.text((left + 2, LINE + 2), label, fill=(INK,) * 3, font=font)
    return image


def scaled(frames: Tensor) -> NDArray[np.uint8]:
    """uint8 (N, H, W, 3), as wide as a page bears; small frames grow by whole pixels."""
    arrays = np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy())
    _, height, width, _ = arrays.shape
    least, most = SIDE
    if width > most:
        return resize(arrays, max(1, round(height * most / width)), most, "bilinear")
    times = -(-least // width)
    return resize(arrays, height * times, width * times, "nearest") if times > 1 else arrays


def stacked(lines: Sequence[Image.Image]) -> Image.Image:
    """Lines one below the other."""
    page = Image.new("RGB", (max(line.width for line in lines), sum(line.height for line in lines)), (PAPER,) * 3)
    top = 0
    for line in lines:
        page.paste(line, (0, top))
        top += line.height
    return page
