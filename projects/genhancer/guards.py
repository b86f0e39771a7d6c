"""What stops a second stage that would train nothing in the tower: the fault of the published video mode."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class TowerLearnsNothingError(ValueError):
    """The tower is to learn, and nothing reaches it."""


class TowerGuard:
    """Watches the gradients of what learns in the tower during the first steps of a start.

    Where the strategy keeps gradients to itself (ZeRO) there are none to look at after the backward pass; then the
    parameters must have moved.
    """

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
        self.seen = 0
        self.satisfied = False
        self._before: list[float] = []

    def start(self, parameters: Iterable[nn.Parameter]) -> None:
        """Begins to watch. Called by every rank."""
        self.seen, self.satisfied = 0, False
        self._before = [norm(each) for each in parameters]

    def watch(self, parameters: Iterable[nn.Parameter]) -> float | None:
        """Looks at the gradients before a step of the optimizer. Called by every rank.

        Returns:
            Their norm; None once one was there, when there is nothing left to watch.

        Raises:
            TowerLearnsNothingError: none was there for `steps` steps.
        """
        if self.satisfied:
            return None
        members = list(parameters)
        gradients = [each.grad for each in members if each.grad is not None]
        total = sum(norm(each) ** 2 for each in gradients) ** 0.5
        moved = not gradients and [norm(each) for each in members] != self._before
        self.seen += 1
        self.satisfied = total > 0 or moved
        # Without gradients to look at, the first step has not been done yet.
        if not self.satisfied and self.seen >= self.steps + (0 if gradients else 1):
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


def norm(value: Tensor) -> float:
    """Euclidean norm of a whole tensor, also of one that is split over ranks."""
    found = value.detach().double().norm()
    return float(found.full_tensor() if isinstance(found, DTensor) else found)
