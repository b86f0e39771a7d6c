"""What is drawn for a clip in a training step, from the seed and the clip's place in the run alone."""

from typing import NamedTuple

import torch
from torch import Tensor

from common.random import generator

SPARE = 8  # numbers for what a kind draws beside the rest


class ClipDraws(NamedTuple):
    """Random numbers of B clips.

    Attributes:
        noise: standard normal, float32 (B, F, C, h, w).
        posterior: standard normal, likewise, where latents are drawn from their posterior; else (B, 0).
        timesteps: int64 (B,).
        targets: int64 (B, m), different frames of the clip.
        keep_text: bool (B,); the others see the null caption.
        keep_context: bool (B,); the others see no other frames.
        spare: uniform in 0..1, float32 (B, SPARE).
    """

    noise: Tensor
    posterior: Tensor
    timesteps: Tensor
    targets: Tensor
    keep_text: Tensor
    keep_context: Tensor
    spare: Tensor


def draw(
    seed: int,
    purpose: str,
    position: int,
    *,
    shape: tuple[int, ...],
    steps: int,
    targets: int,
    text_dropout: float,
    context_dropout: float,
    strata: int = 1,
    shift: float = 1.0,
    sampled: bool = False,
) -> ClipDraws:
    """The draws of one clip (B = 1), the same on every rank and in every micro-batch.

    Args:
        seed: of the run.
        purpose: "train", or another word for the fixed draws of validation.
        position: of the clip in the global order.
        shape: of its latents (F, C, h, w).
        steps: timesteps of the schedule.
        targets: m.
        text_dropout: share of clips that lose their caption.
        context_dropout: share of clips that lose their other frames, independent of the first.
        strata: with n, clip i of n draws its timestep from the i-th of n equal parts (i is the position modulo n), so
            that a global batch of n covers all times; 1 draws from all.
        shift: s > 1 moves times towards noise, from u to s u / (1 + (s - 1) u) (arXiv:2403.03206, equation 23): frames
            that are much alike are told from noise together, and only under more of it does a caption count.
        sampled: whether noise for the posterior is drawn.
    """
    source = generator(seed, "text_to_video", purpose, position)
    time = (position % strata + torch.rand(1, generator=source, dtype=torch.float64)) / strata
    time = shift * time / (1 + (shift - 1) * time)
    hidden = torch.rand(2, generator=source, dtype=torch.float64)
    order = torch.randperm(shape[0], generator=source)
    spare = torch.rand(1, SPARE, generator=source)
    noise = torch.randn(1, *shape, generator=source)
    return ClipDraws(
        noise=noise,
        posterior=torch.randn(1, *shape, generator=source) if sampled else noise.new_empty(1, 0),
        timesteps=(time * steps).long().clamp(max=steps - 1),
        targets=order[None, :targets],
        keep_text=hidden[:1] >= text_dropout,
        keep_context=hidden[1:] >= context_dropout,
        spare=spare,
    )


def stack(draws: list[ClipDraws]) -> ClipDraws:
    """Draws of single clips as those of a batch."""
    return ClipDraws(*(torch.cat(parts) for parts in zip(*draws, strict=True)))
