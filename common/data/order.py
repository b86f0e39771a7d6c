"""The one global order of a run: which rows make up the global batch of a step.

A function of (seed, step) alone. The rows of all epochs form one endless stream, each epoch a permutation of its own;
global batches are cut from the stream, so nothing is dropped at the end of an epoch and a run resumes anywhere by
starting there. How many processes share a global batch, and in how many micro-batches, does not enter.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from common.types import Pick

Ids = NDArray[np.int64]


class Order(Protocol):
    """Which rows make up the global batch of a step."""

    global_batch: int
    steps: int

    def batch(self, step: int) -> Ids:
        """Row numbers of global batch `step`: int64 (global_batch,)."""


class GlobalOrder:
    """Rows of each global batch, optionally of similar length.

    With lengths, every `window` global batches of the stream are sorted by length, cut, and the cuts shuffled: the
    rows of a window stay in the window, so an epoch still sees each row once.
    """

    def __init__(
        self,
        *,
        rows: int,
        global_batch: int,
        steps: int,
        seed: int,
        lengths: Sequence[int] | Ids | None = None,
        window: int = 64,
    ) -> None:
        """
        Args:
            rows: rows of the data set.
            global_batch: rows of a step.
            steps: steps of the run; the last window ends with it.
            seed: of the order.
            lengths: of each row, for batches of similar length; None keeps the plain order.
            window: global batches that are sorted together.
        """
        if rows < 1:
            raise ValueError("the training set has no rows")
        self.rows, self.global_batch, self.steps, self.seed, self.window = rows, global_batch, steps, seed, window
        self.lengths = None if lengths is None else np.asarray(lengths)
        self._epoch = lru_cache(maxsize=3)(self._permutation)
        self._window = lru_cache(maxsize=2)(self._batches_of_window)

    def batch(self, step: int) -> Ids:
        """Row numbers of global batch `step`: int64 (global_batch,), shorter rows first when lengths are given."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a run of {self.steps} steps")
        batch: Ids = self._window(step // self.window)[step % self.window]
        return batch

    def _permutation(self, epoch: int) -> Ids:
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows)

    def _stream(self, start: int, stop: int) -> Ids:
        epochs = range(start // self.rows, (stop - 1) // self.rows + 1)
        joined = np.concatenate([self._epoch(epoch) for epoch in epochs])
        offset = epochs.start * self.rows
        return joined[start - offset : stop - offset]

    def _batches_of_window(self, number: int) -> Ids:
        first = number * self.window
        count = min(self.window, self.steps - first)
        ids = self._stream(first * self.global_batch, (first + count) * self.global_batch)
        if self.lengths is None:
            return ids.reshape(count, self.global_batch)
        by_length = ids[np.argsort(self.lengths[ids], kind="stable")].reshape(count, self.global_batch)
        return by_length[np.random.default_rng([self.seed, number, 1]).permutation(count)]


class MicroBatches(Sampler[list[Pick]]):
    """The micro-batches of one rank, from a given step on.

    Micro-batch m of rank r holds positions (m * world + r) * micro onwards of the global batch. `len` is that of the
    whole run also when it starts later, because Lightning compares its restored counters with it.
    """

    def __init__(
        self,
        order: Order,
        *,
        micro: int,
        accumulate: int,
        rank: int,
        world: int,
        weights: Sequence[float] | NDArray[np.float64] | None = None,
        first_step: int = 0,
    ) -> None:
        """
        Args:
            order: the global order.
            micro: rows of a micro-batch.
            accumulate: micro-batches a rank runs for a step.
            rank: this rank.
            world: number of ranks.
            weights: what a row counts in the loss (its target tokens); None counts each row once.
            first_step: step to start from.
        """
        assert micro * accumulate * world == order.global_batch, (micro, accumulate, world, order.global_batch)
        self.order, self.micro, self.accumulate = order, micro, accumulate
        self.rank, self.world, self.first_step = rank, world, first_step
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float64)

    def __len__(self) -> int:
        return self.order.steps * self.accumulate

    def __iter__(self) -> Iterator[list[Pick]]:
        for step in range(self.first_step, self.order.steps):
            yield from self.of(step)

    def of(self, step: int) -> list[list[Pick]]:
        """The micro-batches of one step."""
        ids = self.order.batch(step)
        total = float(len(ids) if self.weights is None else self.weights[ids].sum())
        normalizer = total / (self.accumulate * self.world)
        starts = [(micro * self.world + self.rank) * self.micro for micro in range(self.accumulate)]
        first = step * self.order.global_batch
        return [
            [
                Pick(int(row), first + place, normalizer)
                for place, row in enumerate(ids[start : start + self.micro], start=start)
            ]
            for start in starts
        ]
