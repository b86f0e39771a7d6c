"""Accuracy per group, where a case may belong to several groups."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from common.metrics.interval import Estimate, wilson


class GroupedAccuracy(Metric):
    """Counts of right and of all cases in each group; sums over ranks."""

    right: Tensor
    total: Tensor
    full_state_update = False

    def __init__(self, groups: Sequence[str]) -> None:
        super().__init__()
        self.groups = tuple(groups)
        for name in ("right", "total"):
            self.add_state(name, torch.zeros(len(self.groups), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, right: Tensor, membership: Tensor) -> None:
        """Adds cases.

        Args:
            right: bool (B,).
            membership: bool (B, G), which groups each case belongs to.
        """
        self.right += (right[:, None] & membership).sum(dim=0)
        self.total += membership.sum(dim=0)

    def compute(self) -> dict[str, Estimate]:
        """Accuracy with interval of every group that has a case."""
        counts = zip(self.groups, self.right.tolist(), self.total.tolist(), strict=True)
        return {group: wilson(right, total) for group, right, total in counts if total}
