"""Recipes of the choice of frames: what a data set asks for each sample which frames of its clip to show."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from common.video.sample import ROUNDING
from projects.genhancer.motion import by_flow, by_ssim
from projects.genhancer.sampling import (
    Choice,
    NoWindowError,
    Phase,
    Seconds,
    draw_dilation,
    guard,
    sliding,
    triplets,
    weights_at,
)


class View(NamedTuple):
    """What is known of a clip when frames are chosen.

    Attributes:
        seconds: float64 (F,), times of its frames.
        frames: uint8 (F, H, W, 3); None where the sampler needs none.
        progress: share of the run that is done, 0..1.
    """

    seconds: Seconds
    frames: NDArray[np.uint8] | None = None
    progress: float = 0.0


class Sampler(Protocol):
    """A way to choose. Every choice has passed `guard`."""

    @property
    def needs_frames(self) -> bool:
        """Whether it looks at the pictures, all of them."""

    @property
    def phases(self) -> Sequence[float]:
        """Shares of the run at which what may be chosen changes, 0 first."""

    def candidates(self, view: View) -> list[Choice]:
        """All that may be chosen at that time of the run; none where the clip is too short."""

    def pick(self, view: View, *, source: Generator) -> Choice:
        """One of the candidates, by numbers from `source`."""

    def settings(self) -> dict[str, Any]:
        """The arguments, as JSON."""


class Triplets:
    """Start and end of a clip, or of a part of it, are shown; the middle is rebuilt."""

    needs_frames = False
    phases: Sequence[float] = (0.0,)

    def __init__(
        self,
        *,
        step: float | None = None,
        stride: float | None = None,
        max_count: int | None = None,
        min_gap: float = 0.0,
    ) -> None:
        """
        Args:
            step: seconds between neighbours; None for the whole clip.
            stride: seconds from one triplet to the next; None starts one at every frame.
            max_count: most triplets a clip.
            min_gap: seconds that the target lies from each condition at least.
        """
        self.step, self.stride, self.max_count, self.min_gap = step, stride, max_count, min_gap

    def candidates(self, view: View) -> list[Choice]:
        found = triplets(view.seconds, step=self.step, stride=self.stride, max_count=self.max_count)
        return _apart(found, view, self.min_gap)

    def pick(self, view: View, *, source: Generator) -> Choice:
        return _one(self, view, source, self.min_gap)

    def settings(self) -> dict[str, Any]:
        return {"kind": "triplets", **vars(self)}


class Sliding:
    """`count` frames at equal steps are shown, the next is rebuilt. One frame: next-frame prediction."""

    needs_frames = False
    phases: Sequence[float] = (0.0,)

    def __init__(
        self,
        *,
        count: int,
        step: float,
        stride: float | None = None,
        max_count: int | None = None,
        min_gap: float = 0.0,
    ) -> None:
        """
        Args:
            count: K, frames that are shown.
            step: seconds from one frame to the next.
            stride: seconds from one window to the next; None starts one at every frame.
            max_count: most windows a clip.
            min_gap: seconds that the target lies from each condition at least.
        """
        self.count, self.step, self.stride = count, step, stride
        self.max_count, self.min_gap = max_count, min_gap

    def candidates(self, view: View) -> list[Choice]:
        found = sliding(view.seconds, count=self.count, step=self.step, stride=self.stride, max_count=self.max_count)
        return _apart(found, view, self.min_gap)

    def pick(self, view: View, *, source: Generator) -> Choice:
        return _one(self, view, source, self.min_gap)

    def settings(self) -> dict[str, Any]:
        return {"kind": "sliding", **vars(self)}


class Dilated:
    """As `Sliding`, with steps that are multiplied by a dilation; which ones, and how often, changes in the run."""

    needs_frames = False

    def __init__(
        self,
        *,
        count: int,
        step: float,
        schedule: Sequence[Sequence[Any]] = ((0.0, {1: 1.0}), (0.2, {1: 0.5, 2: 0.3, 3: 0.2})),
        stride: float | None = None,
        max_count: int | None = None,
        min_gap: float = 0.0,
    ) -> None:
        """
        Args:
            count: K, frames that are shown.
            step: seconds from one frame to the next at dilation 1.
            schedule: phases [share of the run at which it begins, {dilation: weight}], see `sampling.weights_at`. A
                clip that is too short for a dilation draws among the others.
            stride: seconds from one window to the next; None starts one at every frame.
            max_count: most windows a clip and dilation.
            min_gap: seconds that the target lies from each condition at least.
        """
        self.count, self.step, self.stride = count, step, stride
        self.max_count, self.min_gap = max_count, min_gap
        self.schedule: list[Phase] = [(float(begin), _whole(weights)) for begin, weights in schedule]
        for begin in {0.0, *(begin for begin, _ in self.schedule)}:
            weights_at(begin, self.schedule)

    @property
    def phases(self) -> Sequence[float]:
        return [begin for begin, _ in self.schedule]

    def candidates(self, view: View) -> list[Choice]:
        return [choice for found in self._by_dilation(view).values() for choice in found]

    def pick(self, view: View, *, source: Generator) -> Choice:
        number = float(torch.rand((), generator=source, dtype=torch.float64))
        found = self._by_dilation(view)
        if not found:
            raise _none(self, view)
        dilation = draw_dilation(number, weights_at(view.progress, self.schedule), sorted(found))
        return guard(_drawn(found[dilation], source), view.seconds, min_gap=self.min_gap)

    def settings(self) -> dict[str, Any]:
        schedule = [[begin, {str(key): weight for key, weight in weights.items()}] for begin, weights in self.schedule]
        return {"kind": "dilated", **vars(self), "schedule": schedule}

    def _by_dilation(self, view: View) -> dict[int, list[Choice]]:
        """The windows of each dilation of the phase that the clip is long enough for."""
        found = {}
        for dilation in weights_at(view.progress, self.schedule):
            choices = sliding(
                view.seconds,
                count=self.count,
                step=self.step,
                dilation=dilation,
                stride=self.stride,
                max_count=self.max_count,
            )
            if kept := _apart(choices, view, self.min_gap):
                found[dilation] = kept
        return found


class BySsim:
    """The frames that differ most by SSIM; all but the middle one are shown."""

    needs_frames = True
    phases: Sequence[float] = (0.0,)

    def __init__(self, *, count: int = 2, min_gap: float = 0.0) -> None:
        """
        Args:
            count: K, frames that are shown.
            min_gap: seconds between any two of the frames at least.
        """
        self.count, self.min_gap = count, min_gap

    def candidates(self, view: View) -> list[Choice]:
        assert view.frames is not None, "this sampler looks at the pictures"
        return by_ssim(view.frames, view.seconds, count=self.count, min_gap=self.min_gap)

    def pick(self, view: View, *, source: Generator) -> Choice:
        return _one(self, view, source, self.min_gap)

    def settings(self) -> dict[str, Any]:
        return {"kind": "ssim", **vars(self)}


class ByFlow:
    """First and last frame are shown, the one at half of the motion between them is rebuilt."""

    needs_frames = True
    phases: Sequence[float] = (0.0,)

    def __init__(self, *, min_motion: float = 0.01, min_gap: float = 0.0) -> None:
        """
        Args:
            min_motion: least motion of a clip, the sum over its frames of the mean flow, as a share of the short side.
            min_gap: seconds that the target lies from each condition at least.
        """
        self.min_motion, self.min_gap = min_motion, min_gap

    def candidates(self, view: View) -> list[Choice]:
        assert view.frames is not None, "this sampler looks at the pictures"
        return _apart(by_flow(view.frames, view.seconds, min_motion=self.min_motion), view, self.min_gap)

    def pick(self, view: View, *, source: Generator) -> Choice:
        return _one(self, view, source, self.min_gap)

    def settings(self) -> dict[str, Any]:
        return {"kind": "flow", **vars(self)}


def _apart(choices: list[Choice], view: View, min_gap: float) -> list[Choice]:
    """Those whose target lies far enough from its conditions."""
    times, least = view.seconds.tolist(), max(min_gap - ROUNDING, ROUNDING)
    return [
        choice
        for choice in choices
        if min(abs(times[frame] - times[choice.target]) for frame in choice.conditions) >= least
    ]


def _one(sampler: Sampler, view: View, source: Generator, min_gap: float) -> Choice:
    found = sampler.candidates(view)
    if not found:
        raise _none(sampler, view)
    return guard(_drawn(found, source), view.seconds, min_gap=min_gap)


def _drawn(found: list[Choice], source: Generator) -> Choice:
    return found[int(torch.randint(len(found), (), generator=source))]


def _none(sampler: Sampler, view: View) -> NoWindowError:
    length = float(view.seconds[-1] - view.seconds[0])
    return NoWindowError(f"{len(view.seconds)} frames over {length:.2f} s give no window of {sampler.settings()}")


def _whole(weights: Mapping[Any, Any]) -> dict[int, float]:
    """Keys as numbers: a command line writes them as text."""
    return {int(dilation): float(weight) for dilation, weight in weights.items()}
