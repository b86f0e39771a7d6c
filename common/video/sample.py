"""Which frames of a clip to take: pure functions from counts and times to frame numbers.

All return int64 arrays of ascending frame numbers. None of them pads, repeats or clamps on its own account;
where a published rule repeats a frame, its docstring says so.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.int64]
Seconds = NDArray[np.float64]
ROUNDING = 1e-6  # seconds; times are multiples of a container's tick, written as floats


def uniform(num_frames: int, count: int) -> Frames:
    """`count` different frames at equal distance, the first and the last among them.

    floor(i (num_frames - 1) / (count - 1)), the rule of numpy.linspace cast to whole numbers; of one frame,
    the middle one.

    Raises:
        ValueError: the clip has fewer than `count` frames.
    """
    _positive(num_frames=num_frames, count=count)
    if count > num_frames:
        raise ValueError(f"{count} different frames asked of a clip of {num_frames}; ask for fewer")
    if count == 1:
        return np.array([(num_frames - 1) // 2], np.int64)
    return np.arange(count, dtype=np.int64) * (num_frames - 1) // (count - 1)


def midpoint(num_frames: int, count: int) -> Frames:
    """Video-ChatGPT's rule: middles of k = min(num_frames, count) equal segments of [0, num_frames - 1].

    With s = (num_frames - 1) / k, frame i is (round(s i) + round(s (i + 1))) // 2, halves rounded to even.
    The last frame is never taken (but of a clip of one), and a clip of at most `count` frames has one frame
    twice.

    Source: Video-ChatGPT, scripts/save_spatio_temporal_clip_features.py.
    """
    _positive(num_frames=num_frames, count=count)
    segments = min(num_frames, count)
    step = float(num_frames - 1) / segments
    edges = [round(step * i) for i in range(segments + 1)]
    return np.array([(a + b) // 2 for a, b in pairwise(edges)], np.int64)


def nearest_to_times(seconds: Seconds, times: Seconds) -> Frames:
    """The frame nearest to each time; of two equally near the earlier. Repeats where times lie close.

    Args:
        seconds: float64 (num_frames,), ascending presentation times.
        times: float64 (T,), seconds.
    """
    seconds = _ascending(seconds)
    after = np.clip(np.searchsorted(seconds, times), 1, max(1, len(seconds) - 1))
    if len(seconds) == 1:
        return np.zeros(len(times), np.int64)
    earlier = np.abs(times - seconds[after - 1]) <= np.abs(seconds[after] - times)
    return np.where(earlier, after - 1, after).astype(np.int64)


def at_fps(seconds: Seconds, fps: float, max_count: int | None = None) -> Frames:
    """The frames on screen at 0, 1/fps, 2/fps ... up to the last frame; each frame at most once.

    Args:
        seconds: float64 (num_frames,), ascending presentation times, the first 0.
        fps: frames a second, > 0. Above the rate of the clip every frame is taken.
        max_count: cap; where the rule gives more, `max_count` of its frames at equal distance, ends included.
    """
    seconds = _ascending(seconds)
    _positive(fps=fps, max_count=1 if max_count is None else max_count)
    times = np.arange(int((seconds[-1] + ROUNDING) * fps) + 1) / fps
    on_screen = np.searchsorted(seconds, times + ROUNDING, side="right") - 1
    frames = np.unique(np.maximum(on_screen, 0)).astype(np.int64)
    if max_count is None or len(frames) <= max_count:
        return frames
    return frames[uniform(len(frames), max_count)]


def first_seconds_at_fps(seconds: Seconds, duration: float, fps: float) -> Frames:
    """Exactly round(duration * fps) different frames, the k-th nearest to k/fps, verified against the true
    times.

    Raises:
        ValueError: the clip is too short, or its frames lie too far apart or unevenly: no frame within half a
            period of a time, or one frame nearest to two times.
    """
    seconds = _ascending(seconds)
    _positive(duration=duration, fps=fps)
    times = np.arange(round(duration * fps)) / fps
    frames = nearest_to_times(seconds, times)
    off = np.abs(seconds[frames] - times)
    asked = f"the first {duration:g} s at {fps:g} frames a second"
    if times.size and times[-1] > seconds[-1] + 0.5 / fps:
        raise ValueError(f"the clip ends at {seconds[-1]:.3f} s, too short for {asked}")
    if (off > 0.5 / fps + ROUNDING).any() or len(np.unique(frames)) < len(frames):
        raise ValueError(f"the clip's frames lie too far apart for {asked}; ask for a lower rate")
    return frames


def triplet(num_frames: int, *, min_gap: int = 1, gap: int | None = None, start: int = 0) -> Frames:
    """Start, middle and end of a clip, or (start, start + gap, start + 2 gap).

    Args:
        num_frames: frames in the clip.
        min_gap: fewest frames between neighbours of the triplet.
        gap: None for the whole clip (middle = floor of the mean), else the distance.
        start: first frame.

    Raises:
        ValueError: the clip is too short.
    """
    _positive(num_frames=num_frames, min_gap=min_gap, gap=min_gap if gap is None else gap)
    end = num_frames - 1 if gap is None else start + 2 * gap
    middle = start + (end - start) // 2
    if start < 0 or end >= num_frames or middle - start < min_gap or end - middle < min_gap:
        raise ValueError(
            f"a clip of {num_frames} frames is too short for a triplet from frame {start} with a gap of "
            f"{gap or min_gap}; lower the gap"
        )
    return np.array([start, middle, end], np.int64)


def windows(
    num_frames: int, length: int, *, stride: int = 1, dilation: int = 1, max_count: int | None = None
) -> Frames:
    """Sliding windows: row j holds j stride + dilation (0, 1, ..., length - 1). Only whole windows.

    Args:
        num_frames: frames in the clip.
        length: frames in a window.
        stride: from the start of one window to the start of the next.
        dilation: from one frame of a window to the next.
        max_count: cap; where there are more, `max_count` of them at equal distance.

    Returns:
        int64 (num_windows, length); no rows where the clip is shorter than one window.
    """
    _positive(num_frames=num_frames, length=length, stride=stride, dilation=dilation)
    starts = np.arange(0, max(0, num_frames - (length - 1) * dilation), stride, dtype=np.int64)
    if max_count is not None and len(starts) > max_count:
        starts = starts[uniform(len(starts), max_count)]
    return starts[:, None] + dilation * np.arange(length, dtype=np.int64)


def _positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be positive, not {number}")


def _ascending(seconds: Seconds) -> Seconds:
    seconds = np.asarray(seconds, np.float64)
    if seconds.ndim != 1 or not seconds.size or (np.diff(seconds) <= 0).any():
        raise ValueError("seconds must be a non-empty ascending list of times")
    return seconds
