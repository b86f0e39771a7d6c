"""What stops a second stage that would train nothing in the tower: the fault of the published video mode."""

from collections.abc import Iterable

import torch
from torch import Tensor


class TowerLearnsNothingError(ValueError):
    """The tower is to learn, and nothing reaches it."""


class TowerGuard:
    """Watches the gradients of what learns in the tower during the first steps of a start."""

    def __init__(self, *, steps: int) -> None:
        """
        Args:
            steps: within so many optimizer steps a gradient must have been there.

        Raises:
            ValueError: fewer than 1 step.
        """
        if steps < 1:
            raise ValueError(f"model.guard_steps={steps}: at least 1; this guard is always on")
        self.steps = steps
        self.start()

    def start(self) -> None:
        """Begins to watch."""
        self.seen, self.satisfied = 0, False

    def watch(self, gradients: Iterable[Tensor | None]) -> float | None:
        """Looks at the gradients before a step of the optimizer. Called by every rank.

        Args:
            gradients: of each tensor that is to learn; None where none came. Not asked for once one was there.

        Returns:
            Their norm; None once one was there, when there is nothing left to watch.

        Raises:
            TowerLearnsNothingError: none was there for `steps` steps.
        """
        if self.satisfied:
            return None
        members = list(gradients)
        total = sum(float(each.double().norm()) ** 2 for each in members if each is not None) ** 0.5
        self.seen += 1
        self.satisfied = total > 0
        if not self.satisfied and self.seen >= self.steps:
            raise TowerLearnsNothingError(
                f"in {self.seen} steps no gradient reached the {len(members)} tensors that are to learn in the vision "
                f"tower (norm {total}): its export would be its base. The tower must not run under no_grad, its "
                "embeddings must not come from a cache, and the denoiser must depend on them"
            )
        return total


def refuse_detached(embeddings: Tensor) -> None:
    """Raises TowerLearnsNothingError where a training step could not reach the tower."""
    if torch.is_grad_enabled() and not embeddings.requires_grad:
        raise TowerLearnsNothingError(
            "the embeddings of the second stage carry no gradient: the tower ran under no_grad, or they were detached"
        )
