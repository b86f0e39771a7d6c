"""What a step is given: B samples, and how single ones become a batch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.types import Pick
from projects.genhancer.draws import Draws, draw, stack


class Batch(NamedTuple):
    """B samples, each with K frames that are shown (conditions) and one to be rebuilt (target).

    Attributes:
        rows: their numbers in the data set, int64 (B,).
        conditions: uint8 (B, K, 3, H, W), 0..255, at the size of the tower; None where `embeddings` are there.
        embeddings: float32 (B, K, D), of the conditions, as the tower gives them; None where it is to run.
        target: uint8 (B, 3, Ht, Wt), 0..255; None where `latents` are there and no pictures are asked for.
        latents: float16 (B, 2 C, h, w), mean and log-variance of the target, unscaled; None where it is to be encoded.
        times: float32 (B, K + 1), seconds of the conditions, then of the target; of single pictures zeros.
        draws: random numbers.
        normalizer: what the sum of the losses is divided by.
    """

    rows: Tensor
    conditions: Tensor | None
    embeddings: Tensor | None
    target: Tensor | None
    latents: Tensor | None
    times: Tensor
    draws: Draws
    normalizer: float


class Sample(NamedTuple):
    """One sample; its parts are those of `Batch` without B."""

    pick: Pick
    conditions: Tensor | None
    embeddings: Tensor | None
    target: Tensor | None
    latents: Tensor | None
    times: Tensor


def collate(samples: Sequence[Sample], draws: Sequence[Draws]) -> Batch:
    """Samples of one micro-batch, with what is drawn for each, as a batch."""
    return Batch(
        rows=torch.tensor([sample.pick.row for sample in samples]),
        conditions=_stacked([sample.conditions for sample in samples]),
        embeddings=_stacked([sample.embeddings for sample in samples]),
        target=_stacked([sample.target for sample in samples]),
        latents=_stacked([sample.latents for sample in samples]),
        times=torch.stack([sample.times for sample in samples]),
        draws=stack([*draws]),
        normalizer=samples[0].pick.normalizer,
    )


def _stacked(parts: Sequence[Tensor | None]) -> Tensor | None:
    """All or none of them are there."""
    found = [part for part in parts if part is not None]
    assert len(found) in (0, len(parts))
    return torch.stack(found) if found else None


def example(*, rows: int, conditions: int, size: int, target: int, latent: list[int]) -> Batch:
    """A batch of the usual shape that needs no data: for estimates of memory and time.

    Args:
        rows: B.
        conditions: K.
        size: H = W of the conditions.
        target: Ht = Wt.
        latent: C, h, w.
    """
    source = torch.Generator().manual_seed(0)
    draws = [draw(0, "example", row, shape=tuple(latent)) for row in range(rows)]
    return Batch(
        rows=torch.arange(rows),
        conditions=torch.randint(256, (rows, conditions, 3, size, size), generator=source, dtype=torch.uint8),
        embeddings=None,
        target=torch.randint(256, (rows, 3, target, target), generator=source, dtype=torch.uint8),
        latents=None,
        times=torch.arange(conditions + 1).float().expand(rows, -1) if conditions > 1 else torch.zeros(rows, 2),
        draws=stack(draws),
        normalizer=float(rows),
    )
