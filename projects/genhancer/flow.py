"""Rectified flow from data to noise (arXiv:2209.03003), its times and its way back.

The published code's convention: x_t = (1 - t) x + t e with data x, noise e; the model learns e - x, a time runs from 0
(data) to 1 (noise). The paper (arXiv:2503.19480, equation 6) writes the mirror image, which is the same in law.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Shift of FLUX's sampling times: linear in the number of tokens through these two points.
SHIFT_TOKENS = (256, 4096)
SHIFT_RANGE = (0.5, 1.15)


def times_of(normal: Tensor, *, scale: float | None = 1.0, location: float = 0.0) -> Tensor:
    """Training times from standard normal numbers, float32 in 0..1.

    Args:
        normal: n, any shape.
        scale: s of the scaled logit-normal t = sigmoid(s n); None draws t uniformly.
        location: added to s n; above 0 there is more noise (arXiv:2403.03206, section 3.1). The paper's is 0.
    """
    wide = normal.float()
    if scale is None:
        return torch.special.ndtr(wide)
    return torch.sigmoid(scale * wide + location)


def interpolate(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """x_t; `times` is (B,)."""
    share = times.view(-1, *(1,) * (clean.ndim - 1))
    return (1 - share) * clean + share * noise


def target(clean: Tensor, noise: Tensor) -> Tensor:
    """What the model learns, whatever the time."""
    return noise - clean


def sampling_times(steps: int, tokens: int) -> Tensor:
    """From 1 (noise) to 0 (data) as FLUX samples: float32 (steps + 1,), shifted by the number of tokens.

    Raises:
        ValueError: no steps.
    """
    if steps < 1:
        raise ValueError(f"sampling.steps={steps}: at least 1")
    slope = (SHIFT_RANGE[1] - SHIFT_RANGE[0]) / (SHIFT_TOKENS[1] - SHIFT_TOKENS[0])
    shift = math.exp(SHIFT_RANGE[0] + slope * (tokens - SHIFT_TOKENS[0]))
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return (shift * even / (1 + (shift - 1) * even)).float()


def euler(predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, times: Tensor) -> Tensor:
    """Data from noise by Euler steps.

    Args:
        predict: (x_t, t of the shape (B,)) -> e - x.
        noise: (B, ...), float32.
        times: falling, (steps + 1,).
    """
    state = noise
    for now, then in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        velocity = predict(state, torch.full((len(state),), now, device=state.device))
        state = state + (then - now) * velocity.float()
    return state
