"""Seconds of each optimizer step of a real training, and how many of them went by waiting for data."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_HIGHEST = "5"  # see proc_pid_clear_refs(5)


class Step(NamedTuple):
    """One optimizer step: seconds from the end of the one before, and of these without a micro-batch to work on."""

    seconds: float
    waiting: float


class StepTimer(Callback):
    """Times whole steps; the kernels of a GPU are waited for only where one ends."""

    def __init__(self, *, warmup: int) -> None:
        """
        Args:
            warmup: first steps that are not kept: kernels are chosen and compiled, loaders start.
        """
        self.warmup = warmup
        self.steps: list[Step] = []
        self.peak_bytes: int | None = None
        self._before: int | None = None
        self._seen, self._end, self._last, self._waited = 0, 0.0, 0.0, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._before = resident("VmRSS")
        if self._before is not None and CLEAR.exists():
            CLEAR.write_text(RESET_HIGHEST)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end = self._last = time.perf_counter()
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._waited += time.perf_counter() - self._end

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._end = time.perf_counter()
        if trainer.global_step == self._seen:
            return
        self._seen = trainer.global_step
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
            self._end = time.perf_counter()
        if self._seen > self.warmup:
            self.steps.append(Step(self._end - self._last, self._waited))
        self._last, self._waited = self._end, 0.0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated(pl_module.device)
        elif self._before is not None:
            highest = resident("VmHWM")
            self.peak_bytes = None if highest is None else highest - self._before


def resident(which: str) -> int | None:
    """Bytes of this process in memory: VmRSS now, VmHWM at most; None on a system that does not tell.

    Args:
        which: the name of a line of /proc/self/status.
    """
    if not STATUS.exists():
        return None
    line = next((line for line in STATUS.read_text().splitlines() if line.startswith(f"{which}:")), None)
    return None if line is None else int(line.split()[1]) * 1024
