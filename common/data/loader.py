"""A DataLoader that says so when one of its processes dies, also in the middle of handing over a batch."""

import signal
from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import Any

from torch.utils.data import DataLoader

SECONDS = 5.0  # that a process whose connection is gone may take to be gone itself


class Loader(DataLoader[Any]):
    """torch's own, which names a dead process only where it meets it between two batches.

    A batch is handed over by a connection to the process that made it. One that dies just then, killed for its memory
    for instance, leaves a broken connection, and torch asks whether it is alive while it still counts as that.
    """

    def __iter__(self) -> Any:
        iterator = super().__iter__()
        return named(iterator, getattr(iterator, "_workers", ()))


def named(batches: Iterator[Any], processes: Any) -> Iterator[Any]:
    """The batches; a broken connection to one of the processes becomes an error that says how the process ended.

    Raises:
        RuntimeError: a process has died.
    """
    try:
        yield from batches
    except (ConnectionError, EOFError) as error:
        by_end = {each.sentinel: each for each in processes}
        ended = [by_end[end] for end in wait(list(by_end), timeout=SECONDS)]
        if not ended:
            raise
        raise RuntimeError(f"{' '.join(map(told, ended))} If memory ran out, lower data.num_workers.") from error


def told(process: Any) -> str:
    """How a process has ended."""
    process.join()
    code = process.exitcode
    how = f"is killed by signal: {signal.strsignal(-code)}" if code < 0 else f"has ended with status {code}"
    return f"Loader process {process.pid} {how}."
