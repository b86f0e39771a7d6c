"""What is drawn for a sample of a training step, from the seed and the sample's place in the run alone."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from common.random import generator


class Draws(NamedTuple):
    """Random numbers of B samples.

    Attributes:
        noise: standard normal, float32 (B, C, h, w): the end of the flow.
        posterior: standard normal, likewise: which latent of the target's posterior is learned.
        normal: standard normal n, float32 (B,): the time is t = sigmoid(s n).
    """

    noise: Tensor
    posterior: Tensor
    normal: Tensor


def draw(seed: int, purpose: str, position: int, *, shape: tuple[int, ...]) -> Draws:
    """The draws of one sample (B = 1), the same on every rank and in every micro-batch.

    Args:
        seed: of the run.
        purpose: "train", or another word for the fixed draws of evaluation.
        position: of the sample in the global order.
        shape: of a latent (C, h, w).
    """
    source = generator(seed, "genhancer", purpose, position)
    normal = torch.randn(1, generator=source)
    noise = torch.randn(1, *shape, generator=source)
    return Draws(noise, torch.randn(1, *shape, generator=source), normal)


def choice_generator(seed: int, purpose: str, position: int, *, what: str) -> Generator:
    """The source of which frames ("frames") or which crop ("crop") a sample shows, apart from its noise."""
    return generator(seed, "genhancer", what, purpose, position)


def stack(draws: list[Draws]) -> Draws:
    """Draws of single samples as those of a batch."""
    return Draws(*(torch.cat(parts) for parts in zip(*draws, strict=True)))
