"""What is drawn for a sample: a function of seed, purpose and place alone."""

import torch

from projects.genhancer.draws import Draws, choice_generator, draw, stack


def one(position: int, *, seed: int = 0, purpose: str = "train") -> Draws:
    return draw(seed, purpose, position, shape=(2, 3, 3))


def test_they_depend_on_seed_purpose_and_place() -> None:
    same, other = one(7), one(7)
    assert all(torch.equal(a, b) for a, b in zip(same, other, strict=True))
    for changed in (one(8), one(7, seed=1), one(7, purpose="val")):
        assert not any(torch.equal(a, b) for a, b in zip(same, changed, strict=True))


def test_a_batch_is_its_samples() -> None:
    batch = stack([one(0), one(1), one(2)])
    assert [tuple(part.shape) for part in batch] == [(3, 2, 3, 3), (3, 2, 3, 3), (3,)]
    assert torch.equal(batch.noise[1], one(1).noise[0])


def test_all_are_standard_normal_and_independent() -> None:
    many = stack([one(position) for position in range(4000)])
    numbers = torch.stack([many.noise[:, 0, 0, 0], many.posterior[:, 0, 0, 0], many.normal])
    assert torch.allclose(numbers.mean(dim=1), torch.zeros(3), atol=4 / 4000**0.5)
    assert torch.allclose(torch.cov(numbers), torch.eye(3), atol=0.1)


def test_frames_and_crops_have_a_source_of_their_own() -> None:
    chosen = torch.randn(4, generator=choice_generator(0, "train", 7, what="crop"))
    frames = torch.randn(4, generator=choice_generator(0, "train", 7, what="frames"))
    assert not torch.isin(chosen, frames).any()
    assert not torch.isin(chosen, torch.cat([part.flatten() for part in one(7)])).any()
