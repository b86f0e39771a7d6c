"""What every sampler needs of a scheduler of diffusers: a plan of its own, noise by row, settings of a step."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor


def make_plan(scheduler: SchedulerMixin, steps: int, device: torch.device) -> Any:
    """A copy of a scheduler, set to a number of steps; the one that is given stays as it is.

    Args:
        scheduler: any of diffusers that denoises latents.
        steps: denoising steps, at least 1.
        device: of its timesteps.

    Raises:
        ValueError: no steps.
    """
    if steps < 1:
        raise ValueError(f"sampling.steps={steps}: at least 1")
    plan: Any = copy.deepcopy(scheduler)
    plan.set_timesteps(steps, device=device)
    return plan


def first_noise(shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise, float32 (B, *shape), each row from its generator and on that one's device."""
    return torch.cat([torch.randn(1, *shape, generator=each, device=each.device) for each in generators])


def step_settings(plan: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """Arguments of the scheduler's step beside the usual ones, so that all its noise comes from the rows' generators.

    Raises:
        ValueError: the scheduler draws noise by itself.
    """
    if "generator" in inspect.signature(plan.step).parameters:
        return {"generator": list(generators)}
    if hasattr(plan, "noise_sampler"):
        raise ValueError(
            f"{type(plan).__name__} draws noise that no seed of a row decides; take another scheduler, such as "
            "EulerAncestralDiscreteScheduler"
        )
    return {}
