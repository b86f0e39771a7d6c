"""Which frames of a clip are shown and which one is to be rebuilt: pure functions of the frames' times.

Frames are taken by presentation time, not by number: a step of 0.25 s is one at 8 frames a second and at 30. None of
these functions repeats, moves or invents a frame; a window that does not lie in the clip as asked is no window.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.video.sample import ROUNDING, nearest_to_times, uniform

Seconds: TypeAlias = NDArray[np.float64]
Phase: TypeAlias = tuple[float, Mapping[int, float]]
TOLERANCE = 0.25  # of a step: how far from its time a frame of a window may lie


class Choice(NamedTuple):
    """Numbers of frames in their clip: the K conditions, ascending, and the target."""

    conditions: tuple[int, ...]
    target: int

    def times(self, seconds: Seconds) -> Seconds:
        """Times of the conditions, then of the target: float64 (K + 1,)."""
        times: Seconds = np.asarray(seconds, np.float64)[[*self.conditions, self.target]]
        return times


class LeakError(ValueError):
    """The frame to be rebuilt is among the frames that are shown, or too near to one."""


class NoWindowError(ValueError):
    """A clip has no window of the kind that is asked for."""


def gap(choice: Choice, seconds: Seconds) -> float:
    """Seconds from the target to the nearest condition."""
    *conditions, target = choice.times(seconds)
    return float(np.abs(np.array(conditions) - target).min())


def guard(choice: Choice, seconds: Seconds, *, min_gap: float) -> Choice:
    """The choice, if it leaks nothing.

    Args:
        choice: of a clip.
        seconds: float64 (F,), ascending times of its frames.
        min_gap: seconds that the target must lie from every condition; at 0 it must be another frame.

    Raises:
        LeakError: the target is a condition, or lies nearer to one.
    """
    if not choice.conditions:
        raise LeakError("no frame is shown, only one to rebuild")
    if choice.target in choice.conditions or gap(choice, seconds) <= 0:
        raise LeakError(f"frame {choice.target} is to be rebuilt and is among those shown, {list(choice.conditions)}")
    if gap(choice, seconds) < min_gap - ROUNDING:
        raise LeakError(
            f"frame {choice.target} is to be rebuilt and lies {gap(choice, seconds):.3f} s from one that is shown; "
            f"the least is {min_gap:g} s"
        )
    return choice


def windows(
    seconds: Seconds, places: Sequence[int], *, step: float, stride: float | None = None, max_count: int | None = None
) -> NDArray[np.int64]:
    """Runs of frames at given times from a first one.

    Args:
        seconds: float64 (F,), ascending times of the frames.
        places: ascending multiples of the step, the first 0.
        step: seconds.
        stride: seconds from the start of one window to that of the next; None starts one at every frame.
        max_count: cap; where there are more, so many of them at equal distance.

    Returns:
        int64 (number of windows, len(places)): in each row frames that lie within `TOLERANCE` steps of
        their times, all different.
    """
    if step <= 0 or (stride is not None and stride <= 0):
        raise ValueError(f"step={step} and stride={stride} are seconds, above 0")
    seconds = np.asarray(seconds, np.float64)
    starts = np.arange(len(seconds))
    if stride is not None:
        starts = np.unique(nearest_to_times(seconds, np.arange(0.0, seconds[-1] + ROUNDING, stride)))
    times = seconds[starts, None] + step * np.asarray(places, np.float64)
    frames = nearest_to_times(seconds, times.ravel()).reshape(times.shape)
    near = (np.abs(seconds[frames] - times) <= TOLERANCE * step + ROUNDING).all(axis=1)
    found = frames[near & (np.diff(frames, axis=1) > 0).all(axis=1)]
    if max_count is not None and len(found) > max_count:
        found = found[uniform(len(found), max_count)]
    return found


def triplets(
    seconds: Seconds, *, step: float | None = None, stride: float | None = None, max_count: int | None = None
) -> list[Choice]:
    """Start and end are shown, the middle is rebuilt.

    Args:
        seconds: float64 (F,).
        step: seconds from start to middle and from middle to end; None for one triplet: the first frame of the clip,
            the last, and the one nearest to the middle of the time between them.
        stride, max_count: see `windows`.
    """
    if step is not None:
        found = windows(seconds, (0, 1, 2), step=step, stride=stride, max_count=max_count)
        return [Choice((int(start), int(end)), int(middle)) for start, middle, end in found]
    last = len(seconds) - 1
    (middle,) = nearest_to_times(seconds, np.array([(seconds[0] + seconds[-1]) / 2]))
    return [Choice((0, last), int(middle))] if 0 < middle < last else []


def sliding(
    seconds: Seconds,
    *,
    count: int,
    step: float,
    dilation: int = 1,
    stride: float | None = None,
    max_count: int | None = None,
) -> list[Choice]:
    """`count` frames at equal steps are shown, the next one is rebuilt; with one frame this is next-frame prediction.

    Args:
        seconds: float64 (F,).
        count: K.
        step: seconds from one frame of the window to the next, before dilation.
        dilation: by which the step is multiplied.
        stride, max_count: see `windows`.
    """
    if count < 1 or dilation < 1:
        raise ValueError(f"count={count} and dilation={dilation} must be 1 or more")
    places = range(count + 1)
    found = windows(seconds, places, step=step * dilation, stride=stride, max_count=max_count)
    return [Choice(tuple(int(frame) for frame in row[:-1]), int(row[-1])) for row in found]


def weights_at(progress: float, schedule: Sequence[Phase]) -> Mapping[int, float]:
    """The weights of dilations at a time of the run.

    Args:
        progress: share of the run that is done, 0..1.
        schedule: phases, ascending; each has the share of the run at which it begins, the first 0, and
            {dilation: weight}.

    Raises:
        ValueError: the schedule is none.
    """
    begins = [begin for begin, _ in schedule]
    if not begins or begins[0] != 0 or begins != sorted(set(begins)) or begins[-1] >= 1:
        raise ValueError(f"schedule: its phases begin at {begins}; the first begins at 0, the others ascend below 1")
    weights = [by_dilation for begin, by_dilation in schedule if begin <= progress][-1]
    if not weights or min(weights) < 1 or min(weights.values()) <= 0:
        raise ValueError(f"schedule: {dict(weights)} should be {{dilation: weight}}, dilations from 1, weights above 0")
    return weights


def draw_dilation(number: float, weights: Mapping[int, float], possible: Sequence[int]) -> int:
    """One of the dilations that a clip is long enough for, by their weights.

    Args:
        number: drawn uniformly, 0 <= number < 1.
        weights: of each dilation.
        possible: some of them, at least one.
    """
    shares = np.cumsum([weights[dilation] for dilation in possible])
    return possible[int(np.searchsorted(shares, number * shares[-1], side="right"))]
