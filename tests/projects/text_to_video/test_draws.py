"""What is drawn for a clip: a function of seed and place, with the stated frequencies."""

import math

import pytest
import torch

from projects.text_to_video.draws import ClipDraws, draw, stack

COUNT = 20_000


def one(
    position: int, *, seed: int = 0, purpose: str = "train", strata: int = 1, shift: float = 1.0, frames: int = 5
) -> ClipDraws:
    return draw(
        seed,
        purpose,
        position,
        shape=(frames, 1, 1, 1),
        steps=1000,
        targets=3,
        text_dropout=0.1,
        context_dropout=0.2,
        strata=strata,
        shift=shift,
    )


@pytest.fixture(scope="module")
def many() -> ClipDraws:
    return stack([one(position) for position in range(COUNT)])


def within(count: int, share: float) -> bool:
    """Inside four standard deviations of the binomial."""
    return abs(count - COUNT * share) < 4 * math.sqrt(COUNT * share * (1 - share))


def test_captions_and_context_are_dropped_independently(many: ClipDraws) -> None:
    text, context = ~many.keep_text, ~many.keep_context
    assert within(int(text.sum()), 0.1)
    assert within(int(context.sum()), 0.2)
    assert within(int((text & context).sum()), 0.02)


def test_times_and_targets_are_uniform(many: ClipDraws) -> None:
    for start in range(0, 1000, 100):
        assert within(int(((many.timesteps >= start) & (many.timesteps < start + 100)).sum()), 0.1)
    for frame in range(5):
        assert within(int((many.targets[:, 0] == frame).sum()), 0.2)
    assert all(len(set(row)) == 3 for row in many.targets[:100].tolist())


def test_strata_cover_the_times_of_each_global_batch() -> None:
    for step in range(4):
        times = [int(one(position, strata=8).timesteps) for position in range(8 * step, 8 * step + 8)]
        assert [time // 125 for time in times] == list(range(8))


def test_they_depend_on_seed_purpose_and_place_alone() -> None:
    same, other = one(7), one(7)
    assert all(torch.equal(a, b) for a, b in zip(same, other, strict=True))
    assert not torch.equal(one(7).noise, one(8).noise)
    assert not torch.equal(one(7).noise, one(7, seed=1).noise)
    assert not torch.equal(one(7).noise, one(7, purpose="val").noise)


def test_shift_moves_times_towards_noise_and_nothing_else() -> None:
    plain, shifted = ([one(position, shift=shift) for position in range(400)] for shift in (1.0, 4.0))
    for before, after in zip(plain, shifted, strict=True):
        u = float(before.timesteps) / 1000
        assert abs(float(after.timesteps) - 1000 * 4 * u / (1 + 3 * u)) < 5  # the draw itself is finer than u
        assert torch.equal(before.noise, after.noise)
        assert torch.equal(before.spare, after.spare)
