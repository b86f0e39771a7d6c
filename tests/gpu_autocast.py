"""python -m tests.gpu_autocast ...: `launchers.train` on a CPU whose autocast does what a GPU's does."""

from typing import Any

import torch

from common.memory.trace import CudaAutocast
from launchers import train
from launchers.command import run

JOINING = ("stack", "cat")  # the CPU's autocast refuses them float16, which a cache may hold


class GpuAutocast(CudaAutocast):
    """Operations that CUDA's autocast takes to float32 or joins, done so."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in JOINING:
            with torch.autocast("cpu", enabled=False):
                return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


if __name__ == "__main__":
    with GpuAutocast():
        run(train.main, config_name="config")
