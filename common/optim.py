"""Parameter groups and learning-rate schedules."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

log = logging.getLogger(__name__)


def parameter_groups(
    parts: Mapping[str, tuple[Iterable[nn.Parameter], float]], *, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups of a model's parts; frozen parameters are in none.

    Args:
        parts: parameters and learning rate by name of the part.
        weight_decay: for parameters of two and more dimensions; vectors (norms, biases) are not decayed.

    Returns:
        Groups named `<part>` and `<part>/no_decay`, without empty ones.

    Raises:
        ValueError: a part has nothing that trains, or a parameter is in two parts.
    """
    groups, seen = [], set[int]()
    for name, (parameters, lr) in parts.items():
        training = [parameter for parameter in parameters if parameter.requires_grad]
        if not training:
            raise ValueError(f"{name} has a learning rate, but nothing in it trains")
        twice = seen & {id(parameter) for parameter in training}
        if twice:
            raise ValueError(f"{len(twice)} parameters of {name} are in another part too")
        seen |= {id(parameter) for parameter in training}
        matrices = [parameter for parameter in training if parameter.ndim > 1]
        vectors = [parameter for parameter in training if parameter.ndim <= 1]
        groups += [
            {"name": label, "params": members, "lr": lr, "weight_decay": decay}
            for label, members, decay in ((name, matrices, weight_decay), (f"{name}/no_decay", vectors, 0.0))
            if members
        ]
    return groups


def trainable_table(parts: Mapping[str, Iterable[nn.Parameter]]) -> str:
    """What trains, a line a part: numbers that learn, of how many, in which types."""
    lines = ["what trains:"]
    for name, parameters in parts.items():
        members = list(parameters)
        learns = [parameter for parameter in members if parameter.requires_grad]
        total, trained = sum(each.numel() for each in members), sum(each.numel() for each in learns)
        types = ", ".join(sorted({str(each.dtype).removeprefix("torch.") for each in members}))
        lines.append(f"  {name:16} {trained:>15,} of {total:>15,} ({types})")
    return "\n".join(lines)


def warmup_constant(optimizer: Optimizer, *, steps: int, warmup: int) -> LambdaLR:
    """Linear warm-up from 0, then constant; what DeepSpeed calls WarmupLR.

    Args:
        optimizer: whose learning rates are scaled.
        steps: of the whole run.
        warmup: number of steps; in a shorter run, which would never reach its rate, all of its steps, with a
            warning.
    """
    warm = min(warmup, steps)
    if warm < warmup:
        log.warning("warmup=%d in a run of %d steps: the whole run is warm-up", warmup, steps)
    return LambdaLR(optimizer, lambda step: min(1.0, step / max(1, warm)))


def warmup_cosine(optimizer: Optimizer, *, steps: int, warmup: float) -> LambdaLR:
    """Linear warm-up from 0, then half a cosine to 0.

    Args:
        optimizer: whose learning rates are scaled.
        steps: of the whole run.
        warmup: share of the steps (below 1) or number of steps.
    """
    warm = math.ceil(warmup * steps) if warmup < 1 else int(warmup)
    if warm > steps:
        raise ValueError(f"warmup={warm} steps in a run of {steps} steps; lower it")

    def scale(step: int) -> float:
        if step < warm:
            return step / max(1, warm)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return LambdaLR(optimizer, scale)
