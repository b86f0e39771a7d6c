"""Progress of long work: a bar on a terminal, one line a minute anywhere else."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
log = logging.getLogger(__name__)
LINE_EVERY_SECONDS = 60.0


def track(items: Iterable[T], *, description: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` while showing how many are done, the rate, and the time left.

    Args:
        items: what to walk through.
        description: a few words, shown before the figures.
        total: number of items; taken from `len(items)` where it has one.
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    if total == 1:  # it is begun or done
        yield from items
        return
    shown = _bar(items, description, total) if sys.stderr.isatty() else _lines(items, description, total)
    yield from shown


def _bar(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(description, total=total, rate="")
        for item in items:
            yield item
            speed = progress.tasks[task].speed
            progress.update(task, advance=1, rate=f"{speed:.1f}/s" if speed else "")


def _lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= LINE_EVERY_SECONDS:
            last = now
            log.info(line(description, done=done, total=total, seconds=now - start))
    log.info("%s: %d in %.1f s", description, done, time.monotonic() - start)


def line(description: str, *, done: int, total: int | None, seconds: float) -> str:
    """One line of progress: done of total, items a second, minutes left."""
    rate = done / max(seconds, 1e-9)
    text = f"{description}: {done}{'' if total is None else f'/{total}'}, {rate:.1f}/s"
    return text if total is None else f"{text}, {(total - done) / max(rate, 1e-9) / 60:.1f} min left"
