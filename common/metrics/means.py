"""Means per group, where a case may belong to several groups."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from common.metrics.interval import Estimate, mean


class GroupedMean(Metric):
    """Sums of values and of their squares in each group; sums over ranks, which may hold different numbers of cases."""

    total: Tensor
    squares: Tensor
    count: Tensor
    full_state_update = False

    def __init__(self, groups: Sequence[str]) -> None:
        """
        Args:
            groups: their names, the same on every rank.
        """
        super().__init__()
        self.groups = tuple(groups)
        for name in ("total", "squares"):
            self.add_state(name, torch.zeros(len(self.groups), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(self.groups), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, values: Tensor, membership: Tensor) -> None:
        """Adds cases.

        Args:
            values: float (B,).
            membership: bool (B, G), which groups each case belongs to.
        """
        share = values.double()[:, None] * membership
        self.total += share.sum(dim=0)
        self.squares += (share * values.double()[:, None]).sum(dim=0)
        self.count += membership.sum(dim=0)

    def compute(self) -> dict[str, Estimate]:
        """Mean with interval of every group that has a case."""
        sums = zip(self.groups, self.total.tolist(), self.squares.tolist(), self.count.tolist(), strict=True)
        return {group: mean(total, squares, count) for group, total, squares, count in sums if count}
