"""What is drawn for a sample of a training step, from the seed and the sample's place in the run alone."""

from typing import NamedTuple

import torch
from torch import Tensor

from common.random import generator


class Draws(NamedTuple):
    """Random numbers of B samples.

    Attributes:
        noise: standard normal, float32 (B, C, h, w): what is added.
        posterior: standard normal, float32 (B, C, h, w): which latent of the target's posterior is learned.
        timesteps: int64 (B,), uniform in 0 .. steps - 1.
        keep_text: bool (B,); the others see the null instruction.
        keep_history: bool (B,); the others see zeros.
    """

    noise: Tensor
    posterior: Tensor
    timesteps: Tensor
    keep_text: Tensor
    keep_history: Tensor


def draw(seed: int, purpose: str, position: int, *, shape: tuple[int, ...], steps: int, dropout: float) -> Draws:
    """The draws of one sample (B = 1), the same on every rank and in every micro-batch.

    One uniform number u decides what is hidden (arXiv:2211.09800, section 3.2.1, as its authors' code does it): text
    alone for u < p, both for p <= u < 2 p, the history alone for 2 p <= u < 3 p.

    Args:
        seed: of the run.
        purpose: "train", or "val" for the fixed draws of validation.
        position: of the sample in the global order.
        shape: of a latent (C, h, w).
        steps: timesteps of the schedule.
        dropout: p, of each of the three; 0 hides nothing.
    """
    source = generator(seed, "pix2pix_video", purpose, position)
    hidden = torch.rand(1, generator=source, dtype=torch.float64)
    return Draws(
        timesteps=torch.randint(steps, (1,), generator=source),
        keep_text=hidden >= 2 * dropout,
        keep_history=(hidden < dropout) | (hidden >= 3 * dropout),
        noise=torch.randn(1, *shape, generator=source),
        posterior=torch.randn(1, *shape, generator=source),
    )


def stack(draws: list[Draws]) -> Draws:
    """Draws of single samples as those of a batch."""
    return Draws(*(torch.cat(parts) for parts in zip(*draws, strict=True)))
