"""Loaders: the same batches whatever the workers, every row once in evaluation, resumption by samples."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from common.data.module import StreamData
from common.types import Pick


class Numbers(Dataset[Pick]):
    """Rows that are their own number."""

    kind = "numbers"

    def __init__(self, *, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, pick: Pick) -> Pick:
        return pick

    def collate(self, samples: list[Pick]) -> torch.Tensor:
        return torch.tensor([[sample.row, sample.position] for sample in samples])

    @property
    def lengths(self) -> np.ndarray:
        return np.arange(self.size) % 7

    weights = None

    @property
    def fingerprint(self) -> str:
        return str(self.size)


def data(*, world: int = 1, rank: int = 0, step: int = 0, **changes: Any) -> StreamData:
    rows = partial(Numbers, size=23)
    settings = {"global_batch": 4, "micro_batch": 2, "eval_batch": 3, "seed": 0, "steps": 12, "epochs": None} | changes
    made = StreamData(train=rows, val=rows, test={"real": rows}, predict=rows, **settings)
    accumulate = 4 // (2 * world)
    made.trainer = SimpleNamespace(
        accumulate_grad_batches=accumulate, global_rank=rank, world_size=world, global_step=step
    )
    return made


def batches(made: StreamData) -> list[list[list[int]]]:
    return [batch.tolist() for batch in made.train_dataloader()]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_the_batches(workers: int) -> None:
    assert batches(data(num_workers=workers)) == batches(data())


def test_ranks_share_the_global_batch() -> None:
    alone = batches(data())
    ranks = [batches(data(world=2, rank=rank)) for rank in range(2)]
    for step in range(12):
        together = alone[2 * step] + alone[2 * step + 1]
        assert ranks[0][step] + ranks[1][step] == together


def test_resumption_starts_at_the_samples_seen() -> None:
    state = data(step=5).state_dict()
    resumed = data(world=2, rank=1)
    resumed.load_state_dict(state)
    assert batches(resumed) == batches(data(world=2, rank=1))[5:]
    assert len(resumed.train_dataloader()) == 12


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 13}, {"global_batch": 8, "micro_batch": 4}])
def test_another_order_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="init="):
        data(**change).load_state_dict(data(step=5).state_dict())


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_row_once(world: int) -> None:
    seen = [
        row for rank in range(world) for b in data(world=world, rank=rank).val_dataloader() for row in b[:, 0].tolist()
    ]
    assert sorted(seen) == list(range(23))


def test_epochs_are_rounded_up_to_whole_steps() -> None:
    assert data(steps=None, epochs=2.0).num_steps() == 12
    with pytest.raises(ValueError, match="either steps or epochs"):
        data(epochs=1.0)


@pytest.mark.parametrize("nothing", [{"steps": 0}, {"steps": -1}, {"steps": None, "epochs": 0.0}, {"num_workers": -1}])
def test_a_run_of_nothing_is_refused(nothing: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"nothing would be trained|num_workers=-1"):
        data(**nothing)
