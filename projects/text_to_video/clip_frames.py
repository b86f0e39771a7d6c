"""The frames of a clip that a text-to-video model sees: at equal times from its start, in one size."""

import math
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.video.clip import VideoInfo, VideoReadError
from common.video.decode import read
from common.video.sample import ROUNDING, Frames, nearest_to_times
from common.video.transform import center_crop, resize, to_channels_first

Crop: TypeAlias = Literal["centre", "squash"]
TICK = 1e-3  # seconds; the coarsest clock of a container in use, which rounds the time of the last frame


def length(info: VideoInfo) -> float:
    """Seconds from the first frame to the end of the last, which is taken to last as long as frames do on average."""
    return float(info.seconds[-1]) + (1 / info.fps if info.fps > 0 else 0.0)


def available(seconds: float, fps: float) -> int:
    """How many of the times 0, 1/fps, 2/fps ... lie within a clip; at least the first does."""
    return max(1, math.ceil((seconds - TICK) * fps))


def numbers(info: VideoInfo, *, fps: float, frames: int) -> Frames:
    """For k = 0 .. `frames` - 1 the frame nearest to k / fps, of two equally near the earlier; up to the clip's end.

    Presentation times decide, so a variable rate or a start after 0 does not matter. Of a source with fewer frames a
    second, frames are repeated.
    """
    count = min(frames, available(length(info), fps))
    # From 24 to 16 a second every other time lies halfway between two frames: rounding must not decide.
    return nearest_to_times(info.seconds, np.arange(count) / fps - ROUNDING)


def clip_frames(
    path: str | Path, *, fps: float, frames: int, size: tuple[int, int], crop: Crop, backend: str
) -> Tensor:
    """The first frames of a clip.

    Args:
        path: of the video.
        fps: frames a second, by presentation time; see `numbers`.
        frames: F, how many at most.
        size: height and width in pixels.
        crop: "centre" keeps the aspect ratio: resized to cover the size, then its middle; "squash" resizes to it.
        backend: video reader.

    Returns:
        uint8 (F', 3, H, W), 0..255, RGB; F' < F where the clip is shorter. Nothing fills it up.

    Raises:
        VideoReadError: the file cannot be read, or the decoder flags frames among these as damaged.
    """
    clip = read(path, lambda info: numbers(info, fps=fps, frames=frames), backend=backend)
    if clip.corrupt_frames:
        raise VideoReadError(path, f"{clip.corrupt_frames} of its first frames are damaged; fetch the file again")
    return to_channels_first(_fitted(clip.frames, size, crop))


def check(crop: str, fps: float) -> None:
    """
    Raises:
        ValueError: an unknown crop, or a rate of 0 or less.
    """
    if crop not in get_args(Crop) or not fps > 0:
        raise ValueError(f"crop={crop!r} fps={fps}: crop is one of {', '.join(get_args(Crop))}, fps is above 0")


def _fitted(frames: NDArray[np.uint8], size: tuple[int, int], crop: Crop) -> NDArray[np.uint8]:
    height, width = size
    if crop == "squash":
        return resize(frames, height, width)
    scale = max(height / frames.shape[1], width / frames.shape[2])
    covering = resize(frames, round(frames.shape[1] * scale), round(frames.shape[2] * scale))
    return center_crop(covering, height, width)
