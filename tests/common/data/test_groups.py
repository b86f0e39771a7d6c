"""Batches of one group each: shares, epochs, and independence of ranks, micro-batches and where a run starts."""

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from common.data.groups import GroupedOrder
from common.data.module import StreamData
from common.types import Pick

GROUPS = np.repeat([7, 2, 5], [60, 28, 8])[np.random.default_rng(0).permutation(96)]


def order(**changes: Any) -> GroupedOrder:
    return GroupedOrder(**{"groups": GROUPS, "global_batch": 4, "steps": 72, "seed": 0, "window": 8} | changes)


def test_a_batch_is_of_one_group_and_each_has_its_share() -> None:
    made = order()
    groups = [np.unique(GROUPS[made.batch(step)]) for step in range(72)]
    assert all(len(each) == 1 for each in groups)
    first_epoch = [int(each[0]) for each in groups[:24]]
    assert [first_epoch.count(group) for group in (7, 2, 5)] == [15, 7, 2]
    assert first_epoch != sorted(first_epoch)


def test_an_epoch_sees_each_row_once() -> None:
    made = order()
    for epoch in range(3):
        seen = np.concatenate([made.batch(step) for step in range(24 * epoch, 24 * epoch + 24)])
        assert sorted(seen) == list(range(96))


def test_rows_of_uneven_groups_are_seen_as_often_as_others() -> None:
    groups = np.repeat([0, 1, 2], [23, 50, 3])
    made = order(groups=groups, steps=400)
    counts = np.bincount(np.concatenate([made.batch(step) for step in range(400)]), minlength=76)
    assert counts.sum() == 1600
    assert 18 <= counts.min() <= counts.max() <= 24  # 1600 / 76 = 21.05


def test_it_depends_on_the_seed_and_on_nothing_before() -> None:
    first, again, other = order(), order(), order(seed=1)
    again.batch(70)
    assert [first.batch(step).tolist() for step in range(72)] == [again.batch(step).tolist() for step in range(72)]
    assert any(first.batch(step).tolist() != other.batch(step).tolist() for step in range(72))
    with pytest.raises(IndexError):
        first.batch(72)


class Shapes(Dataset[Pick]):
    """Rows of three shapes."""

    lengths = weights = None
    groups = GROUPS
    fingerprint = "shapes"

    def __len__(self) -> int:
        return len(GROUPS)

    def __getitem__(self, pick: Pick) -> Pick:
        return pick

    def collate(self, samples: list[Pick]) -> torch.Tensor:
        return torch.tensor([[sample.row, sample.position] for sample in samples])


def data(*, world: int = 1, rank: int = 0, step: int = 0, **changes: Any) -> StreamData:
    settings = {"global_batch": 8, "micro_batch": 2, "eval_batch": 3, "seed": 0, "steps": 20, "epochs": None} | changes
    made = StreamData(train=Shapes, val=Shapes, test={"real": Shapes}, predict=Shapes, **settings)
    accumulate = settings["global_batch"] // (settings["micro_batch"] * world)
    made.trainer = SimpleNamespace(
        accumulate_grad_batches=accumulate, global_rank=rank, world_size=world, global_step=step
    )
    return made


def picks(made: StreamData) -> list[list[list[int]]]:
    return [batch.tolist() for batch in made.train_dataloader()]


@pytest.mark.parametrize(("world", "micro"), [(2, 2), (1, 8), (4, 1)])
def test_ranks_and_micro_batches_share_one_order(world: int, micro: int) -> None:
    alone = {position: row for batch in picks(data()) for row, position in batch}
    found: dict[int, int] = {}
    for rank in range(world):
        for batch in picks(data(world=world, rank=rank, micro_batch=micro)):
            assert len({GROUPS[row] for row, _ in batch}) == 1
            found |= {position: row for row, position in batch}
    assert found == alone
    assert sorted(alone) == list(range(160))


def test_a_resumed_run_goes_on_with_the_same_batches() -> None:
    resumed = data(world=2, rank=1)
    resumed.load_state_dict(data(step=7).state_dict())
    assert picks(resumed) == picks(data(world=2, rank=1))[2 * 7 :]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_row_once_in_batches_of_one_group(world: int) -> None:
    loaders = [data(world=world, rank=rank).val_dataloader() for rank in range(world)]
    batches = [batch[:, 0].tolist() for loader in loaders for batch in loader]
    assert sum(len(loader) for loader in loaders) == len(batches)
    assert all(len({GROUPS[row] for row in batch}) == 1 for batch in batches)
    assert sorted(row for batch in batches for row in batch) == list(range(96))


def test_groups_smaller_than_a_batch_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data(global_batch=16).train_dataloader()
        assert "1 of 3 groups of training rows have fewer than batch.global=16 rows (least 8)" in caplog.text
        caplog.clear()
        data().train_dataloader()
        assert not caplog.text
