"""Space on disk: what a checkpoint takes, what is free, and a write that leaves nothing behind where it fails."""

import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor
from torch.optim import SGD, Optimizer

HEADER = 1024  # bytes a tensor takes in the file beside its values: name, records of the archive, alignment
REST = 1 << 16  # counters, settings, manifest
MOMENT = 4  # bytes of a float32
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class DiskSpaceError(ValueError):
    """What is to be written does not fit; the message names the missing bytes."""


def free_bytes(folder: Path) -> int:
    """Bytes that a user may still write to the file system of a folder; the folder itself need not exist yet."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def stored_bytes(state: Any) -> int:
    """Size of the file that holds a checkpoint.

    Args:
        state: its content, nested; a tensor that is split over ranks counts whole.

    Returns:
        An upper bound that is close: values of all tensors, and what the archive adds to each.
    """
    tensors = list(_tensors(state))
    return REST + sum(HEADER + each.numel() * each.element_size() for each in tensors)


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def expected_bytes(optimizers: Iterable[Optimizer]) -> int:
    """Size of a checkpoint before the first step, when the optimizer has no state yet.

    A parameter of n values of b bytes counts n (b + 8): itself and two float32 moments, as Adam and its kin hold.
    SGD counts its momentum alone, if it has one. Optimizers with smaller moments (8-bit, factored) take less.
    """
    total = REST
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            moments = int(bool(group["momentum"])) if isinstance(optimizer, SGD) else 2
            for value in group["params"]:
                total += HEADER * (2 + moments) + value.numel() * (value.element_size() + MOMENT * moments)
    return total


def shortage(what: str, size: int, folder: Path) -> str | None:
    """Why something does not fit into a folder, with the missing bytes; None where it fits."""
    free = free_bytes(folder)
    if size <= free:
        return None
    return f"{what} needs {human(size)}; {human(free)} are free in {folder}; {human(size - free)} are missing"


def human(size: int) -> str:
    """A number of bytes for a reader, and exactly: `1.50 MiB (1,572,864 bytes)`."""
    power = min(int(math.log(max(size, 1), 1024)), len(UNITS) - 1)
    return f"{size:,} bytes" if power == 0 else f"{size / 1024**power:.2f} {UNITS[power]} ({size:,} bytes)"


class StreamedCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint straight to the name it is given.

    Lightning's own way builds the whole file in memory, writes it to the system's folder for temporary files, and
    moves it from there: two more places that can be too small. Here a failed write is removed and remembered, not
    raised: Lightning calls this on rank 0 alone, and the other ranks wait behind it.
    """

    def __init__(self) -> None:
        self.problem: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes the file and hands it to the disk; on failure sets `problem` and removes what was written."""
        assert storage_options is None
        self.problem = None
        path = Path(path)
        try:
            with open(path, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__  # torch hides the one in the other
            if not isinstance(cause, OSError):
                raise
            written = path.stat().st_size if path.exists() else 0
            path.unlink(missing_ok=True)
            self.problem = f"writing {path} failed after {human(written)}: {cause.strerror}"
