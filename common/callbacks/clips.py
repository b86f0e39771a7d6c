"""A few fixed captions, sampled as clips at each validation, beside the true clips."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from lightning import LightningModule, Trainer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from common.callbacks.fixed_rows import FixedRows, png
from common.callbacks.pictures import GAP, INK, LINE, PAPER, SHOWN, scaled, stacked
from common.files import atomic_write_bytes
from common.loggers import log_clips, log_sheets
from common.shapes import expect
from common.video.sample import uniform
from common.video.write import write_h264


class SampledClip(NamedTuple):
    """One caption and its clips.

    Attributes:
        title: the caption.
        truth: the clip it was written for, uint8 (F, 3, H, W), 0..255.
        pred: the clip that was sampled, likewise.
        fps: frames a second.
    """

    title: str
    truth: Tensor
    pred: Tensor
    fps: float


@runtime_checkable
class ClipRows(Protocol):
    """What the module of a method that samples clips has."""

    def predict_clips(self, rows: Any, numbers: Sequence[int]) -> list[SampledClip]:
        """Samples the captions of rows, each as it would be sampled alone.

        Args:
            rows: the validation rows, `datamodule.rows("val")`.
            numbers: of those to sample.
        """


class Clips(FixedRows[SampledClip]):
    """Writes the clips of each validation into `samples` of the run folder, and hands them to the loggers.

    `step_0000500_row_0000.mp4` is the clip sampled for the first caption; `step_0000500.png` has for each caption
    frames of the true clip and, below them, of the sampled one. See `FixedRows`. A method takes part by
    `predict_clips` of its module, and its experiment by `override /callbacks: clips`.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not isinstance(pl_module, ClipRows):
            raise ValueError(f"{type(pl_module).__name__} samples no clips (predict_clips); take callbacks=default")

    def predict(self, module: LightningModule, rows: Any, numbers: Sequence[int]) -> list[SampledClip]:
        assert isinstance(module, ClipRows)
        return module.predict_clips(rows, list(numbers))

    def write(self, trainer: Trainer, rows: Any, numbers: Sequence[int], predicted: Sequence[SampledClip]) -> None:
        step = trainer.global_step
        clips = {f"row_{number:04d}": clip for number, clip in zip(numbers, predicted, strict=True)}
        sheets = {name: sheet_of(clip) for name, clip in clips.items()}
        atomic_write_bytes(self.folder / f"step_{step:07d}.png", png(stacked(list(sheets.values()))))
        files = {name: self.folder / f"step_{step:07d}_{name}.mp4" for name in clips}
        for name, clip in clips.items():
            write_h264(files[name], clip.pred.permute(0, 2, 3, 1).contiguous().cpu().numpy(), fps=clip.fps)
        for logger in trainer.loggers:
            log_sheets(logger, sheets, step=step)
            log_clips(logger, files, step=step)


def sheet_of(clip: SampledClip) -> Image.Image:
    """Its caption, frames of the truth, and below them the frames of the sample at the same times."""
    expect(clip.truth, "F C H W", name="truth", C=3, dtype=torch.uint8)
    frames, _, height, width = clip.truth.shape
    expect(clip.pred, "F C H W", name="pred", F=frames, C=3, H=height, W=width, dtype=torch.uint8)
    chosen = torch.from_numpy(uniform(frames, min(frames, SHOWN)))
    rows = [scaled(each.cpu()[chosen]) for each in (clip.truth, clip.pred)]
    count, high, wide, _ = rows[0].shape
    tops = [(2 + place) * LINE + place * high for place in range(2)]
    page = np.full((tops[-1] + high, count * (wide + GAP) - GAP, 3), PAPER, np.uint8)
    for top, row in zip(tops, rows, strict=True):
        for place, frame in enumerate(row):
            left = place * (wide + GAP)
            page[top : top + high, left : left + wide] = frame
    image = Image.fromarray(page)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    draw.text((2, 2), clip.title, fill=(INK,) * 3, font=font)
    for top, label in zip(tops, ("truth", "sample"), strict=True):
        told = f"{label}, {count} of {frames} frames"
        draw.text((2, top - LINE + 2), told, fill=(INK,) * 3, font=font)
    return image
