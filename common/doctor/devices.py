"""The GPUs that a run asks for, and those that this machine has."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from common.doctor.row import Row, Status

BFLOAT16 = 8.0  # compute capability from which tensor cores know it


class Gpu(NamedTuple):
    """A GPU of this machine."""

    name: str
    bytes: float
    capability: float


def gpus() -> list[Gpu]:
    """What this process can see."""
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        each = torch.cuda.get_device_properties(index)
        found.append(Gpu(each.name, float(each.total_memory), each.major + each.minor / 10))
    return found


def gpu_rows(trainer: Mapping[str, Any], found: list[Gpu], *, elsewhere: bool) -> list[Row]:
    """Rows about the GPUs.

    Args:
        trainer: of the composed configuration.
        found: on this machine.
        elsewhere: the run will be on another machine, so that what is missing here is only worth a word.
    """
    if trainer["accelerator"] == "cpu":
        told = f"not asked for; here: {_told(found)}"
        return [Row(Status.PASS, "GPU", told)]
    wanted = int(trainer["devices"])
    missing = Status.WARN if elsewhere else Status.FAIL
    if not found:
        built = "this torch is built for the CPU" if torch.version.cuda is None else "nvidia-smi tells if the driver is"
        return [
            Row(missing, "GPU", f"{wanted} wanted, none visible ({built})", "hardware=cpu, or run it where they are")
        ]
    rows = [Row(Status.PASS, "GPU", f"{wanted} wanted; {_told(found)}")]
    if len(found) < wanted:
        rows = [Row(missing, "GPU", f"{wanted} wanted; {_told(found)}", f"trainer.devices={len(found)}")]
    old = [each for each in found if each.capability < BFLOAT16]
    if old and "bf16" in str(trainer["precision"]):
        rows.append(Row(Status.WARN, "bfloat16", f"{old[0].name} has no such products", "trainer.precision=32-true"))
    return rows


def _told(found: list[Gpu]) -> str:
    names = [f"{each.name}, {each.bytes / 1e9:.0f} GB" for each in found]
    return "; ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "none"
