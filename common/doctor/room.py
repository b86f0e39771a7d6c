"""Is there room: on the disk for what the run writes, on the devices and in the machine for what it holds."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from common.config import build
from common.disk import HEADER, REST, free_bytes, human, shortage
from common.doctor.devices import Gpu
from common.doctor.row import Row, Status
from common.memory.devices import Need
from common.memory.ledger import storage_bytes
from common.memory.refusal import alternatives, parts
from common.memory.run import MemoryRun
from common.memory.table import size

AMPLE = 0.9  # share of the memory of a device that an estimate may take without a warning


def room_rows(
    run: MemoryRun,
    tree: Mapping[str, Any],
    *,
    others: Callable[[], Mapping[str, MemoryRun]],
    gpus: Sequence[Gpu],
) -> list[Row]:
    """Rows about disk, memory and loaders of a composed run; one step is traced for them, without weights.

    Args:
        run: as it is asked for.
        tree: the composed configuration.
        others: gives runs with other settings, by what one would write.
        gpus: of this machine.
    """
    batch = tree_leaves(build(tree["data"]).synthetic_batch(run.tree["micro"]))
    held = storage_bytes(each for each in batch if isinstance(each, Tensor))
    rows = loader_rows(tree, batch_bytes=held)
    present = min((each.bytes for each in gpus), default=None)
    try:
        return [disk_row(run, tree), *memory_rows(run, others=others, present=present), *rows]
    except ValueError as error:
        return [Row(Status.FAIL, "memory", f"cannot be estimated: {error}"), *rows]


def memory_rows(run: MemoryRun, *, others: Callable[[], Mapping[str, MemoryRun]], present: float | None) -> list[Row]:
    """Rows about memory: the estimate by part against the device that is meant, and the one that is here.

    Args:
        run: as it is asked for.
        others: gives runs with other settings, by what one would write.
        present: bytes of the smallest GPU of this machine; None where there is none.
    """
    needed = run.need()
    told = f"{size(needed.total)} a device during {needed.when}: {parts(needed)}"
    if run.capacity is None:
        return [_host_row(told, needed)]
    name = f"memory, {run.devices} x {run.strategy}, {run.tree['hw']}"
    rows = [_device_row(name, told, needed.total, run.capacity, lambda: alternatives(run, others()))]
    if present is not None and present < run.capacity:
        rows.append(_device_row("memory of the GPU here", told, needed.total, present, list))
    return rows


def _device_row(name: str, told: str, needed: float, capacity: float, others: Callable[[], list[str]]) -> Row:
    if needed <= AMPLE * capacity:
        return Row(Status.PASS, name, f"{told}; of {size(capacity)}")
    fitting = "; ".join(others()) or "a larger machine"
    status = Status.WARN if needed <= capacity else Status.FAIL
    return Row(status, name, f"{told}; of {size(capacity)}", f"what fits: {fitting}")


def _host_row(told: str, needed: Need) -> Row:
    free = available()
    if free is None or needed.total <= free:
        return Row(Status.PASS, "memory, CPU", told)
    return Row(Status.WARN, "memory, CPU", f"{told}; {size(free)} are free now", "a smaller batch.micro, or a GPU")


def available(path: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that processes may still take, what files are cached in included; None on a system that does not tell."""
    if not path.is_file():
        return None
    facts = dict(line.split(":") for line in path.read_text().splitlines())
    return int(facts["MemAvailable"].split()[0]) * 1024


def disk_row(run: MemoryRun, tree: Mapping[str, Any]) -> Row:
    """Free space against the checkpoints that will be there at once: those that are kept, and the one being written."""
    saving = tree["callbacks"].get("checkpointing")
    if saving is None:
        return Row(Status.WARN, "disk", "nothing is saved: callbacks.checkpointing is off", "callbacks=default")
    count = saving["keep_last"] + saving["keep_best"] + 1
    one = checkpoint_bytes(run)
    folder = Path(tree["paths"]["outputs"])
    short = shortage(f"the run keeps up to {count} checkpoints of {size(one)} and", one * count, folder)
    if short is None:
        return Row(Status.PASS, "disk", f"{count} checkpoints of {size(one)}; {human(free_bytes(folder))} are free")
    status = Status.FAIL if free_bytes(folder) < one else Status.WARN
    return Row(status, "disk", short, "paths.outputs=<another disk>, or callbacks.checkpointing.keep_last=1")


def checkpoint_bytes(run: MemoryRun) -> int:
    """Size of one checkpoint: what trains, its optimizer state, and its average where one is kept."""
    trace = run.traced("own")
    average = 4 * trace.sizes.trained_count if run.tree["average"] else 0
    return REST + HEADER + trace.sizes.trained + trace.states + average


def loader_rows(tree: Mapping[str, Any], *, batch_bytes: int, shared: Path = Path("/dev/shm")) -> list[Row]:
    """Rows about the loader processes: cores for them, and shared memory for their batches.

    Args:
        tree: the composed configuration.
        batch_bytes: of a micro-batch.
        shared: the file system that batches pass through.
    """
    workers, devices = int(tree["data"]["num_workers"]), int(tree["trainer"]["devices"])
    if workers == 0:
        return []
    cores, wanted = len(os.sched_getaffinity(0)), devices * (workers + 1)
    status = Status.PASS if cores >= wanted else Status.WARN
    fewer = max(1, cores // devices - 1)
    remedy = "" if cores >= wanted else f"data.num_workers={fewer}, if the run is to be on this machine"
    rows = [Row(status, "cores", f"{cores} for {devices} x ({workers} loader processes and the step)", remedy)]
    held = 2 * devices * workers * batch_bytes  # each worker is two batches ahead
    if shared.is_dir() and free_bytes(shared) < held:
        found = f"{human(free_bytes(shared))} in {shared} for batches of {human(held)}"
        rows.append(Row(Status.WARN, "shared memory", found, "fewer data.num_workers, or docker run --shm-size"))
    return rows
