"""Which frames of a clip are shown and which is rebuilt: the published tasks, by time, and the guard."""

from typing import Any

import numpy as np
import pytest
import torch

from projects.genhancer.samplers import ByFlow, BySsim, Dilated, Sampler, Sliding, Triplets, View
from projects.genhancer.sampling import (
    Choice,
    LeakError,
    NoWindowError,
    draw_dilation,
    gap,
    guard,
    sliding,
    triplets,
    weights_at,
    windows,
)

EIGHTH = np.arange(16) / 8  # 8 frames a second, 2 s
SCHEDULE = ((0.0, {1: 1.0}), (0.2, {1: 0.5, 2: 0.3, 3: 0.2}))
SAMPLERS: list[Sampler] = [
    Triplets(),
    Triplets(step=0.25),
    Triplets(step=0.25, stride=0.5, max_count=2),
    Sliding(count=1, step=0.25),
    Sliding(count=2, step=0.125),
    Sliding(count=3, step=0.25, stride=0.25, max_count=8),
    Dilated(count=3, step=0.125),
    BySsim(),
    BySsim(count=3, min_gap=0.25),
    ByFlow(),
]


def moving(count: int = 16, size: int = 32, steps: Any = None) -> np.ndarray:
    """A bright square that moves to the right by `steps` pixels a frame."""
    frames = np.full((count, size, size, 3), 30, np.uint8)
    places = np.arange(count) if steps is None else np.cumsum([0, *steps])
    for frame, place in zip(frames, places, strict=True):
        frame[12:20, 2 + int(place) : 10 + int(place)] = 220
    return frames


def view(seconds: np.ndarray = EIGHTH, progress: float = 0.0) -> View:
    return View(seconds, moving(len(seconds)), progress)


def picks(sampler: Sampler, given: View, count: int = 200) -> list[Choice]:
    return [sampler.pick(given, source=torch.Generator().manual_seed(seed)) for seed in range(count)]


# The published tasks


def test_start_and_end_show_the_middle() -> None:
    assert triplets(np.arange(9) / 12) == [Choice((0, 8), 4)]


def test_the_middle_is_one_of_time_not_of_number() -> None:
    assert triplets(np.array([0.0, 0.1, 0.2, 0.3, 0.4, 1.0])) == [Choice((0, 5), 4)]


@pytest.mark.parametrize("frames", [1, 2])
def test_a_clip_without_a_middle_has_no_triplet(frames: int) -> None:
    assert triplets(np.arange(frames) / 12) == []
    with pytest.raises(NoWindowError, match=f"{frames} frames"):
        Triplets().pick(view(np.arange(frames) / 12), source=torch.Generator())


def test_triplets_at_a_step() -> None:
    assert triplets(EIGHTH[:7], step=0.25) == [Choice((0, 4), 2), Choice((1, 5), 3), Choice((2, 6), 4)]


def test_next_frame_and_windows() -> None:
    assert sliding(EIGHTH[:4], count=1, step=0.25) == [Choice((0,), 2), Choice((1,), 3)]
    assert sliding(EIGHTH[:5], count=2, step=0.125) == [Choice((0, 1), 2), Choice((1, 2), 3), Choice((2, 3), 4)]
    assert sliding(EIGHTH[:8], count=3, step=0.125, dilation=2) == [Choice((0, 2, 4), 6), Choice((1, 3, 5), 7)]


def test_windows_start_at_a_stride_and_are_spread_by_their_cap() -> None:
    starts = [row[0] for row in windows(EIGHTH, (0, 1), step=0.125, stride=0.5)]
    assert starts == [0, 4, 8, 12]
    assert [row[0] for row in windows(EIGHTH, (0, 1), step=0.125, max_count=3)] == [0, 7, 14]


def test_frames_are_found_by_their_time() -> None:
    # Variable rate: frame 2 is missing, so no window of steps of an eighth leads over it.
    seconds = np.delete(EIGHTH[:7], 2)
    assert windows(seconds, (0, 1, 2), step=0.125).tolist() == [[2, 3, 4], [3, 4, 5]]
    # Times that a container rounds to milliseconds.
    assert windows(np.round(np.arange(5) / 12, 3), (0, 1, 2), step=1 / 12).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: str(sampler.settings()))
def test_no_sampler_ever_leaks(sampler: Sampler, frames: int) -> None:
    given = view(EIGHTH[:frames], progress=0.5)
    found = sampler.candidates(given)
    for choice in found:
        assert guard(choice, given.seconds, min_gap=sampler.settings()["min_gap"]) is choice
        assert list(choice.conditions) == sorted(set(choice.conditions))
        assert max(*choice.conditions, choice.target) < frames
    if found:
        assert {*picks(sampler, given, 1 if sampler.needs_frames else 50)} <= {*found}


@pytest.mark.parametrize("kind", [Triplets, Sliding])
def test_a_least_gap_is_kept(kind: type) -> None:
    arguments = {"count": 2} if kind is Sliding else {}
    near = kind(step=0.125, min_gap=0.2, **arguments)
    assert near.candidates(view()) == []
    far = kind(step=0.25, min_gap=0.2, **arguments)
    assert min(gap(choice, EIGHTH) for choice in far.candidates(view())) == pytest.approx(0.25)


# The guard


@pytest.mark.parametrize("leak", [Choice((0, 3), 3), Choice((0, 3), 0), Choice((), 2)])
def test_a_target_among_its_conditions_is_refused(leak: Choice) -> None:
    with pytest.raises(LeakError):
        guard(leak, EIGHTH, min_gap=0.0)


def test_a_target_at_the_time_of_a_condition_is_refused() -> None:
    with pytest.raises(LeakError, match="among those shown"):
        guard(Choice((0, 2), 1), np.array([0.0, 0.5, 0.5]), min_gap=0.0)


def test_a_target_too_near_is_refused() -> None:
    assert guard(Choice((0, 4), 2), EIGHTH, min_gap=0.25) == Choice((0, 4), 2)
    with pytest.raises(LeakError, match=r"0\.250 s.*0\.3 s"):
        guard(Choice((0, 4), 2), EIGHTH, min_gap=0.3)


# Dilation


def test_dilations_follow_the_schedule() -> None:
    sampler = Dilated(count=3, step=0.125)
    early = picks(sampler, view(progress=0.19), 50)
    assert {choice.conditions[1] - choice.conditions[0] for choice in early} == {1}
    late = [choice.conditions[1] - choice.conditions[0] for choice in picks(sampler, view(progress=0.2), 2000)]
    shares = [late.count(dilation) / 2000 for dilation in (1, 2, 3)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.05)


def test_a_short_clip_draws_among_the_dilations_that_it_has() -> None:
    late = picks(Dilated(count=3, step=0.125), view(EIGHTH[:7], progress=0.9), 1000)
    steps = [choice.conditions[1] - choice.conditions[0] for choice in late]
    assert [steps.count(dilation) / 1000 for dilation in (1, 2, 3)] == pytest.approx([0.625, 0.375, 0], abs=0.06)


def test_the_weights_of_a_schedule() -> None:
    assert weights_at(0.1, SCHEDULE) == {1: 1.0}
    assert weights_at(1.0, SCHEDULE) == {1: 0.5, 2: 0.3, 3: 0.2}
    assert [draw_dilation(number, {1: 0.5, 2: 0.3, 3: 0.2}, [1, 2, 3]) for number in (0, 0.49, 0.5, 0.79, 0.81)] == [
        1,
        1,
        2,
        2,
        3,
    ]


@pytest.mark.parametrize("schedule", [[], [(0.1, {1: 1.0})], [(0.0, {0: 1.0})], [(0.0, {1: 0.0})], [(0.0, {})]])
def test_a_schedule_that_is_none_is_refused(schedule: Any) -> None:
    with pytest.raises(ValueError, match="schedule"):
        Dilated(count=2, step=0.1, schedule=schedule)


def test_keys_from_a_command_line_are_numbers() -> None:
    assert Dilated(count=2, step=0.1, schedule=[[0, {"1": 1}]]).schedule == [(0.0, {1: 1.0})]


# Motion


def test_half_of_the_motion_is_behind_the_target() -> None:
    fast_then_slow = [4, 4, 4] + [0] * 4 + [1] * 4
    choice = ByFlow().pick(View(np.arange(12) / 8, moving(12, 40, fast_then_slow)), source=torch.Generator())
    assert choice == Choice((0, 11), 2)


def test_a_still_clip_has_no_choice_by_flow() -> None:
    with pytest.raises(NoWindowError):
        ByFlow().pick(View(EIGHTH, moving(16, 32, [0] * 15)), source=torch.Generator())


def test_the_least_motion_is_a_share_of_the_short_side() -> None:
    frames = moving(16, 32)
    assert ByFlow(min_motion=0.01).candidates(View(EIGHTH, frames))
    assert not ByFlow(min_motion=2.0).candidates(View(EIGHTH, frames))


def test_the_frames_that_differ_most_are_taken() -> None:
    frames = moving(9, 32, [0, 0, 0, 12, 0, 0, 0, 0])  # two scenes, frames 0..3 and 4..8
    (choice,) = BySsim(count=1).candidates(View(np.arange(9) / 8, frames))
    assert choice == Choice((0,), 4)


def test_frames_by_ssim_keep_their_gap() -> None:
    (choice,) = BySsim(count=2, min_gap=0.5).candidates(view())
    assert gap(choice, EIGHTH) >= 0.5


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: str(sampler.settings()))
def test_what_is_picked_depends_on_the_source_alone(sampler: Sampler) -> None:
    count = 1 if sampler.needs_frames else 20
    assert picks(sampler, view(), count) == picks(sampler, view(), count)
