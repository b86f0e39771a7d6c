"""Batches that were made once and come as often as they are asked for, through the loader of a run."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset


class Repeated(Dataset[Any]):
    """One micro-batch as a data set; each answer is a copy, as if it had been read."""

    def __init__(self, batch: Any, *, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        return tree_map_only(Tensor, torch.clone, self.batch)


def loader(batch: Any, *, count: int, num_workers: int, pin_memory: bool) -> DataLoader[Any]:
    """`count` micro-batches, by as many processes as a run would have."""
    return DataLoader(
        Repeated(batch, count=count),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def tokens_of(batch: Any) -> int | None:
    """Positions of the texts of a micro-batch, visual ones included; None where it has no texts."""
    if isinstance(batch, tuple):
        ids = getattr(batch, "ids", None)
        if isinstance(ids, Tensor) and ids.ndim == 2:
            return ids.numel()
        return next((found for part in batch if (found := tokens_of(part)) is not None), None)
    return None
