"""uint8 frames to uint8 frames: resize, crop, mirror. One choice for all the frames of a clip.

Frames come as the decoder gives them, uint8 (T, H, W, C), and every function here but the last keeps that
layout; `to_channels_first` gives the one in which pixels cross folders, uint8 (T, C, H, W).
"""

from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

Frames: TypeAlias = NDArray[np.uint8]
Mode: TypeAlias = Literal["bicubic", "bilinear", "nearest"]


def resize(frames: Frames, height: int, width: int, mode: Mode = "bicubic") -> Frames:
    """Resizes every frame to height x width, whatever its aspect ratio.

    Args:
        frames: uint8 (T, H, W, C).
        height: pixels, > 0.
        width: pixels, > 0.
        mode: "bicubic" and "bilinear" are antialiased: they weigh all source pixels that a target pixel
            covers. "nearest" takes the source pixel floor(i H / height), as Video-ChatGPT's features were
            made (torch's interpolation of floats by "nearest", then truncation).

    Returns:
        uint8 (T, height, width, C).

    Raises:
        ValueError: an unknown mode, a size below 1, or frames of another shape or type.
    """
    _check(frames)
    if mode not in get_args(Mode) or height < 1 or width < 1:
        raise ValueError(f"resize to {height}x{width} by {mode!r}; the modes are {', '.join(get_args(Mode))}")
    if frames.shape[1:3] == (height, width):
        return frames
    if mode == "nearest":
        rows, columns = _nearest(frames.shape[1], height), _nearest(frames.shape[2], width)
        return np.ascontiguousarray(frames[:, rows[:, None], columns])
    # A view with channels last in memory: torch resizes that as uint8, without a copy in floats of the whole
    # clip.
    planes = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    resized = functional.interpolate(planes, size=(height, width), mode=mode, antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def resize_short_side(frames: Frames, size: int, mode: Mode = "bicubic") -> Frames:
    """Resizes so that the shorter side has `size` pixels and the aspect ratio stays, to the nearest pixel."""
    _check(frames)
    _, height, width, _ = frames.shape
    short = min(height, width)
    return resize(frames, round(height * size / short), round(width * size / short), mode)


def center_crop(frames: Frames, height: int, width: int) -> Frames:
    """The middle height x width of every frame; of an odd rest, the smaller half lies above and to the left.

    Raises:
        ValueError: the frames are smaller than that.
    """
    rest_y, rest_x = _rest(frames, height, width)
    return _crop(frames, rest_y // 2, rest_x // 2, height, width)


def random_crop(frames: Frames, height: int, width: int, *, generator: Generator) -> Frames:
    """One height x width part, drawn uniformly, of every frame: the same for the whole clip.

    Args:
        frames: uint8 (T, H, W, C).
        height: pixels.
        width: pixels.
        generator: seeded from (seed, epoch, position), so that the crop does not depend on who draws it.

    Raises:
        ValueError: the frames are smaller than that.
    """
    rest_y, rest_x = _rest(frames, height, width)
    top = int(torch.randint(rest_y + 1, (), generator=generator))
    left = int(torch.randint(rest_x + 1, (), generator=generator))
    return _crop(frames, top, left, height, width)


def horizontal_flip(frames: Frames, *, probability: float, generator: Generator) -> Frames:
    """Mirrors the whole clip, or does not. Keep it at 0 where words name a side or a direction.

    Args:
        frames: uint8 (T, H, W, C).
        probability: of a mirrored clip, 0..1.
        generator: one number is drawn from it, whatever the probability.
    """
    _check(frames)
    if not 0 <= probability <= 1:
        raise ValueError(f"the probability of a flip must be 0..1, not {probability}")
    flip = float(torch.rand((), generator=generator)) < probability
    return np.ascontiguousarray(frames[:, :, ::-1]) if flip else frames


def to_channels_first(frames: Frames) -> Tensor:
    """uint8 (T, H, W, C) to a contiguous uint8 tensor (T, C, H, W)."""
    _check(frames)
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))


def _nearest(source: int, target: int) -> NDArray[np.int64]:
    """Source pixel of each target pixel, in the single precision in which torch computes it."""
    scale = np.float32(source) / np.float32(target)
    places = np.floor(np.arange(target, dtype=np.float32) * scale)
    nearest: NDArray[np.int64] = np.minimum(places, source - 1).astype(np.int64)
    return nearest


def _rest(frames: Frames, height: int, width: int) -> tuple[int, int]:
    _check(frames)
    rest_y, rest_x = frames.shape[1] - height, frames.shape[2] - width
    if rest_y < 0 or rest_x < 0 or height < 1 or width < 1:
        size = f"{frames.shape[1]}x{frames.shape[2]}"
        raise ValueError(f"no crop of {height}x{width} in frames of {size}; resize them first")
    return rest_y, rest_x


def _crop(frames: Frames, top: int, left: int, height: int, width: int) -> Frames:
    return np.ascontiguousarray(frames[:, top : top + height, left : left + width])


def _check(frames: Frames) -> None:
    if frames.ndim != 4 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 (T, H, W, C), not {frames.dtype} {frames.shape}")
