"""Which part of a picture is shown: one box for all frames of a clip, for what is shown and for what is rebuilt."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from common.random import generator
from common.video.transform import resize, to_channels_first

TRIES = 10  # draws of a box that must lie inside, before the middle is taken


class Box(NamedTuple):
    """Part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Crops:
    """Boxes of random area and aspect ratio, as torchvision's RandomResizedCrop draws them (arXiv:1409.4842).

    With `area=[1, 1]` and `aspect=[1, 1]` the box is the middle square of a picture, whatever is drawn.
    """

    def __init__(
        self,
        *,
        area: Sequence[float] = (0.9, 1.0),
        aspect: Sequence[float] = (3 / 4, 4 / 3),
        count: int | None = None,
    ) -> None:
        """
        Args:
            area: least and greatest share of the picture's area.
            aspect: least and greatest width / height; it is drawn evenly on a logarithmic scale.
            count: so many boxes a row, which its name decides, so that what is made of them can be cached; None draws
                a new one for each sample.

        Raises:
            ValueError: a range or a count that is none.
        """
        self.area, self.aspect, self.count = (area[0], area[1]), (aspect[0], aspect[1]), count
        if not 0 < area[0] <= area[1] <= 1 or not 0 < aspect[0] <= aspect[1] or (count is not None and count < 1):
            raise ValueError(
                f"crops: area={list(area)} is a range within 0..1, aspect={list(aspect)} one above 0, count={count} is "
                "1 or more, or null"
            )

    def settings(self) -> dict[str, Any]:
        """The arguments, for the settings of a cache: numbers and text."""
        return {"crop_area": _text(self.area), "crop_aspect": _text(self.aspect), "crop_count": self.count}

    def draw(self, height: int, width: int, *, source: Generator) -> Box:
        """A box in a picture of height x width.

        Ten times an area and an aspect ratio are drawn, until the box lies inside; then it is the middle of the
        picture, of the aspect ratio in the range that is nearest to the picture's.
        """
        for _ in range(TRIES):
            numbers = torch.rand(4, generator=source, dtype=torch.float64).tolist()
            area = height * width * _between(self.area, numbers[0])
            aspect = math.exp(_between((math.log(self.aspect[0]), math.log(self.aspect[1])), numbers[1]))
            high, wide = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < high <= height and 0 < wide <= width:
                return Box(int(numbers[2] * (height - high + 1)), int(numbers[3] * (width - wide + 1)), high, wide)
        aspect = min(max(width / height, self.aspect[0]), self.aspect[1])
        high, wide = min(height, round(width / aspect)), min(width, round(height * aspect))
        return Box((height - high) // 2, (width - wide) // 2, high, wide)

    def fixed(self, height: int, width: int, *, name: str, number: int) -> Box:
        """Box `number` of the row of that name; no seed of a run moves it."""
        return self.draw(height, width, source=generator("genhancer crop", name, number))


def cut(frames: NDArray[np.uint8], box: Box, *, size: int) -> Tensor:
    """The box of every frame at size x size pixels, bicubic with antialiasing.

    Args:
        frames: uint8 (T, H, W, 3).
        box: of all of them.
        size: pixels.

    Returns:
        uint8 (T, 3, size, size), 0..255.
    """
    part = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    return to_channels_first(resize(np.ascontiguousarray(part), size, size))


def _between(ends: tuple[float, float], number: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * number


def _text(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g}..{ends[1]:g}"
