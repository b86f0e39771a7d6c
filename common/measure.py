"""What the benchmarks of training steps share: a clock of parts, operations, and the most memory that was held."""

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

AUTOCAST = {"32-true": False, "bf16-mixed": True}  # precisions by their name in Lightning
T = TypeVar("T")


class Clock:
    """Seconds of each part of a step, the kernels of a GPU waited for."""

    def __init__(self, device: torch.device, parts: Sequence[str]) -> None:
        self.device = device
        self.seconds = dict.fromkeys(parts, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time of the block."""
        start = self._now()
        yield
        self.seconds[name] += self._now() - start

    @property
    def total(self) -> float:
        """Of the whole step."""
        return sum(self.seconds.values())

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The products of a precision.

    Args:
        device: that computes.
        precision: "32-true", or "bf16-mixed".

    Raises:
        ValueError: another precision.
    """
    if precision not in AUTOCAST:
        raise ValueError(f"task.precision={precision} is not one of {', '.join(AUTOCAST)}")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=AUTOCAST[precision])


def operations(work: Callable[[], T]) -> tuple[T, int]:
    """What a part gives, and its floating-point operations, 2 for each multiplication and addition.

    Attention is run as matrix products, for the counter does not know every fused kernel.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        result = work()
    return result, int(counter.get_total_flops())


def peak_gib(device: torch.device) -> float:
    """GiB: the most that was allocated on a GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
