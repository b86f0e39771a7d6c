"""One function over many jobs in processes of their own, results in the order of the jobs."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from common.progress import track

Job = TypeVar("Job")
Result = TypeVar("Result")
FEW = 64  # jobs that are not worth starting processes for


def each(function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int, description: str) -> Iterator[Result]:
    """Yields function(job) for each job; the result does not depend on the number of processes.

    Args:
        function: of a module, so that a process finds it by name.
        jobs: its arguments, which can be pickled.
        workers: processes; 1 for this one.
        description: a few words for the progress.
    """
    if workers < 1:
        raise ValueError(f"task.workers={workers} must be 1 or more")
    if workers == 1 or len(jobs) <= FEW:
        yield from map(function, track(jobs, description=description))
        return
    # Not fork: the caller may hold threads (torch, arrow) that a forked child would wait for.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_one_thread) as pool:
        yield from track(pool.map(function, jobs, chunksize=8), description=description, total=len(jobs))


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
