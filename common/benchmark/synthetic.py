"""Batches that were made once and come as often as they are asked for, through the loader of a run."""

from typing import Any

import torch
from lightning import LightningDataModule
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


class Synthetic(LightningDataModule):
    """In place of the data of a run; DeepSpeed asks it how large batches are."""

    def __init__(
        self, batch: Any, *, count: int, global_batch: int, micro_batch: int, num_workers: int, pin_memory: bool
    ) -> None:
        """
        Args:
            batch: a micro-batch.
            count: how often it comes.
            global_batch: rows of an optimizer step.
            micro_batch: rows of the micro-batch.
            num_workers: loader processes, as many as the run would have.
            pin_memory: page-locked batches, for a GPU.
        """
        super().__init__()
        self.batch, self.count = batch, count
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.num_workers, self.pin_memory = num_workers, pin_memory

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            Repeated(self.batch, count=self.count),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0,
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
