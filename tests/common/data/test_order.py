"""The global order: every row once an epoch, independent of ranks, micro-batches and where it starts."""

import numpy as np
import pytest

from common.data.order import GlobalOrder, MicroBatches


def ids_of_step(order: GlobalOrder, step: int, *, world: int, micro: int, first_step: int = 0) -> list[int]:
    accumulate = order.global_batch // (world * micro)
    picks = []
    for rank in range(world):
        batches = MicroBatches(order, micro=micro, accumulate=accumulate, rank=rank, world=world, first_step=first_step)
        taken = list(batches)[(step - first_step) * accumulate : (step - first_step + 1) * accumulate]
        picks += [pick for batch in taken for pick in batch]
    return [pick.row for pick in sorted(picks, key=lambda pick: pick.position)]


@pytest.mark.parametrize("lengths", [None, "random"])
def test_every_row_is_seen_once_an_epoch(lengths: str | None) -> None:
    rows, size = 96, 8
    sizes = np.random.default_rng(0).integers(5, 50, rows) if lengths else None
    order = GlobalOrder(rows=rows, global_batch=size, steps=3 * rows // size, seed=3, lengths=sizes, window=4)
    per_epoch = rows // size
    for epoch in range(3):
        seen = np.concatenate([order.batch(step) for step in range(epoch * per_epoch, (epoch + 1) * per_epoch)])
        assert sorted(seen) == list(range(rows))


def test_nothing_is_dropped_where_the_batch_does_not_divide_the_epoch() -> None:
    order = GlobalOrder(rows=10, global_batch=4, steps=5, seed=0)
    stream = np.concatenate([order.batch(step) for step in range(5)])
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))


@pytest.mark.parametrize(("world", "micro"), [(1, 8), (1, 2), (2, 4), (2, 1), (4, 2)])
def test_order_does_not_depend_on_the_world(world: int, micro: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 99, 50)
    order = GlobalOrder(rows=50, global_batch=8, steps=20, seed=7, lengths=lengths)
    for step in (0, 6, 19):
        assert ids_of_step(order, step, world=world, micro=micro) == order.batch(step).tolist()


def test_starting_later_gives_the_same_batches() -> None:
    order = GlobalOrder(rows=50, global_batch=8, steps=20, seed=7)
    whole = list(MicroBatches(order, micro=4, accumulate=2, rank=0, world=1))
    later = MicroBatches(order, micro=4, accumulate=2, rank=0, world=1, first_step=13)
    assert list(later) == whole[26:]
    assert len(later) == len(whole) == 40


def test_seed_zero_is_a_seed_and_seeds_differ() -> None:
    first, again, other = (GlobalOrder(rows=100, global_batch=10, steps=5, seed=seed) for seed in (0, 0, 1))
    assert first.batch(2).tolist() == again.batch(2).tolist() != other.batch(2).tolist()


def test_batches_have_similar_lengths() -> None:
    lengths = np.random.default_rng(2).integers(1, 1000, 640)
    order = GlobalOrder(rows=640, global_batch=10, steps=64, seed=0, lengths=lengths)
    spread = np.mean([np.ptp(lengths[order.batch(step)]) for step in range(64)])
    plain = GlobalOrder(rows=640, global_batch=10, steps=64, seed=0)
    assert spread < 0.1 * np.mean([np.ptp(lengths[plain.batch(step)]) for step in range(64)])


def test_normalizers_make_the_mean_over_micro_batches_the_global_mean() -> None:
    weights = np.random.default_rng(3).integers(1, 9, 40).astype(float)
    order = GlobalOrder(rows=40, global_batch=8, steps=5, seed=0)
    batches = [MicroBatches(order, micro=2, accumulate=2, rank=rank, world=2, weights=weights) for rank in range(2)]
    first = [list(each)[:2] for each in batches]
    shares = [sum(weights[p.row] for p in micro) / micro[0].normalizer for rank in first for micro in rank]
    assert np.isclose(np.mean(shares), 1.0)
