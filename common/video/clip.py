"""What reading a video gives, and the one error it raises."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray


class VideoReadError(ValueError):
    """A video cannot be read, or not the frames that were asked for.

    Attributes:
        path: the file (or folder, or first file of a list) as it was given.
        reason: what is wrong and, where there is one, the remedy.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoReadError"], tuple[str, str]]:
        # The default rebuilds from the joined message and would fail when a data loader's worker hands it
        # over.
        return type(self), (self.path, self.reason)


class VideoInfo(NamedTuple):
    """What is known of a video before its frames are decoded.

    Attributes:
        num_frames: frames that a player would show (frames hidden by an edit list are not counted).
        seconds: float64 (num_frames,), presentation time of each frame, the first is 0.
        fps: mean frames a second, (num_frames - 1) / seconds[-1]; of a single frame the declared rate, or 0.
        height, width: pixels, after rotation.
        codec, container: FFmpeg's names ("h264", "mov,mp4,m4a,3gp,3g2,mj2"); for images Pillow's format
            twice.
        rotation: degrees counter-clockwise by which the stored picture is turned for display (already
            applied).
    """

    num_frames: int
    seconds: NDArray[np.float64]
    fps: float
    height: int
    width: int
    codec: str
    container: str
    rotation: int


class Clip(NamedTuple):
    """Decoded frames.

    Attributes:
        frames: uint8 (T, H, W, 3), RGB, 0..255, native size, upright.
        indices: int64 (T,), number of each frame in the video, as asked (order and repeats kept).
        seconds: float64 (T,), presentation time of each frame counted from the first frame of the video.
        bad_packets: packets that the decoder refused, or that are missing from the end of a cut-off file.
        corrupt_frames: different frames among those returned that the decoder flagged as damaged.
    """

    frames: NDArray[np.uint8]
    indices: NDArray[np.int64]
    seconds: NDArray[np.float64]
    bad_packets: int
    corrupt_frames: int


Source: TypeAlias = str | Path | Sequence[str | Path]
Indices: TypeAlias = Sequence[int] | NDArray[np.int64] | Callable[[VideoInfo], Sequence[int] | NDArray[np.int64]]


def name_of(source: Source) -> str:
    """The name under which a source appears in messages."""
    if isinstance(source, str | Path):
        return str(source)
    return f"{source[0]} and {len(source) - 1} more" if source else "(an empty list of images)"


def mean_fps(seconds: NDArray[np.float64], declared: float = 0.0) -> float:
    """Frames a second over the whole clip; `declared` where a single frame leaves nothing to measure."""
    span = float(seconds[-1] - seconds[0])
    return (len(seconds) - 1) / span if span > 0 else declared


def choose(path: object, indices: Indices, info: VideoInfo) -> NDArray[np.int64]:
    """The frame numbers that were asked for, int64 (T,).

    Raises:
        VideoReadError: none was asked for, or one lies outside the video.
    """
    wanted = np.asarray(indices(info) if callable(indices) else indices)
    if wanted.ndim != 1 or not wanted.size or not np.issubdtype(wanted.dtype, np.integer):
        raise VideoReadError(path, f"indices must be a list of whole numbers, not {wanted.tolist()!r}")
    outside = wanted[(wanted < 0) | (wanted >= info.num_frames)]
    if outside.size:
        raise VideoReadError(path, f"frame {outside[0]} asked for, but it has frames 0..{info.num_frames - 1}")
    return wanted.astype(np.int64)


def assemble(
    path: object,
    wanted: NDArray[np.int64],
    frames: dict[int, NDArray[np.uint8]],
    info: VideoInfo,
    *,
    bad_packets: int = 0,
    corrupt_frames: int = 0,
) -> Clip:
    """Puts decoded frames, keyed by their number, into the order that was asked for; empties `frames`.

    Raises:
        VideoReadError: a frame is missing, or the picture size changes within the clip.
    """
    missing = sorted(set(wanted.tolist()) - frames.keys())
    if missing:
        first = f"frame {missing[0]} at {info.seconds[missing[0]]:.3f} s"
        raise VideoReadError(path, f"{first} cannot be decoded ({len(missing)} such frames, {bad_packets} bad packets)")
    shapes = {frames[i].shape for i in frames}
    if len(shapes) > 1:
        raise VideoReadError(path, f"the picture size changes within the clip: {sorted(shapes)}; re-encode it")
    stacked = np.empty((len(wanted), *shapes.pop()), np.uint8)
    for number in sorted(frames):  # each is freed at once: a clip is held in memory once, not twice
        stacked[wanted == number] = frames.pop(number)
    return Clip(stacked, wanted, info.seconds[wanted], bad_packets, corrupt_frames)
