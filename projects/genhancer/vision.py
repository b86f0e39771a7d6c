"""What the tower makes of the condition frames."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.encoders.tower import ContrastiveTower
from projects.genhancer.data import Batch


class Seen(NamedTuple):
    """B samples of K condition frames each.

    Attributes:
        embeddings: class embeddings, float32 (B, K, D).
        patches: states of patches, float32 (B, K, P, hidden), where they are the condition.
    """

    embeddings: Tensor
    patches: Tensor | None


def see(tower: Callable[[], ContrastiveTower], batch: Batch, *, learns: bool, patches: bool) -> Seen:
    """What the tower makes of the conditions of a batch.

    Args:
        tower: gives it; not called where the batch brings embeddings.
        batch: B samples.
        learns: whether gradients are to flow into it. Where they are not, they would cost memory alone.
        patches: whether patches are the condition.

    Raises:
        ValueError: embeddings from a cache where they are of no use.
    """
    if batch.embeddings is not None:
        if learns or patches:
            raise ValueError(
                "cached embeddings are of the tower before it learns, and hold no patches; set "
                "data.train.embeddings=null, and so for data.val"
            )
        return Seen(batch.embeddings.float(), None)
    assert batch.conditions is not None
    with nullcontext() if learns else torch.no_grad():
        found = tower()(batch.conditions.flatten(0, 1))
    embeddings, states = (part.unflatten(0, batch.conditions.shape[:2]) for part in found)
    return Seen(embeddings, states if patches else None)


def shuffled(seen: Seen) -> Seen:
    """Each sample with what was seen of its neighbour in the micro-batch.

    Raises:
        ValueError: a micro-batch of one has no neighbours.
    """
    if len(seen.embeddings) < 2:
        raise ValueError("model.shuffle=true needs 2 samples and more at once; raise batch.micro and batch.eval")
    moved = [None if part is None else part.roll(1, dims=0) for part in seen]
    assert moved[0] is not None
    return Seen(moved[0], moved[1])


def vision_units(tower: ContrastiveTower) -> list[nn.Module]:
    """Blocks of the vision tower, gathered one at a time."""
    vision: Any = tower.vision
    return list(vision.encoder.layers)
