"""The order of a run whose rows batch only with rows of their own group, such as clips of one size and length."""

import numpy as np

from common.data.order import GlobalOrder, Ids
from common.random import mix


class GroupedOrder:
    """Rows of each global batch, all of one group.

    A function of (seed, step) alone, as `GlobalOrder` is: which group a step takes does not depend on ranks or
    micro-batches, so that any division of a global batch is of one group too. Each group has an endless stream of its
    own, whose epochs are permutations, and groups come as often as they have rows: after any number of steps, up to
    the shuffling within a window, a group has had its share of the batches to within a batch. A group with fewer rows
    than a global batch fills it with more than one epoch of its own, as much less often.
    """

    def __init__(self, *, groups: Ids, global_batch: int, steps: int, seed: int, window: int = 64) -> None:
        """
        Args:
            groups: of each row, any numbers.
            global_batch: rows of a step.
            steps: steps of the run; the last window ends with it.
            seed: of the order.
            window: steps whose groups are shuffled.
        """
        if not len(groups):
            raise ValueError("the training set has no rows")
        self.global_batch, self.steps = global_batch, steps
        self.members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        self.streams = [
            GlobalOrder(rows=len(rows), global_batch=global_batch, steps=steps, seed=mix("group", seed, number))
            for number, rows in enumerate(self.members)
        ]
        self.plan = _shuffled(_schedule([len(rows) for rows in self.members], steps), seed=seed, window=window)
        self.nth = np.empty_like(self.plan)
        for number in range(len(self.members)):
            places = np.flatnonzero(self.plan == number)
            self.nth[places] = np.arange(len(places))

    def batch(self, step: int) -> Ids:
        """Row numbers of global batch `step`: int64 (global_batch,), of one group."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a run of {self.steps} steps")
        group = int(self.plan[step])
        rows: Ids = self.members[group][self.streams[group].batch(int(self.nth[step]))]
        return rows


def _schedule(sizes: list[int], steps: int) -> Ids:
    """The group of each step, int64 (steps,): batch i of a group with a share s of the rows is due at (i + 1/2) / s."""
    shares = np.asarray(sizes) / sum(sizes)
    enough = [int(np.ceil(share * steps)) + len(sizes) + 1 for share in shares]
    due = np.concatenate([(np.arange(count) + 0.5) / share for count, share in zip(enough, shares, strict=True)])
    groups = np.repeat(np.arange(len(sizes)), enough)
    return groups[np.argsort(due, kind="stable")][:steps]


def _shuffled(plan: Ids, *, seed: int, window: int) -> Ids:
    parts = [
        np.random.default_rng([seed, number, 2]).permutation(plan[start : start + window])
        for number, start in enumerate(range(0, len(plan), window))
    ]
    return np.concatenate(parts)
