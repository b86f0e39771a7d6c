"""One thing that was looked at."""

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table


class Status(IntEnum):
    """How it stands, the worst last."""

    PASS = 0
    WARN = 1  # the run may work, or is slower or larger than it need be
    FAIL = 2  # the run would not work


COLOURS = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


class Row(NamedTuple):
    """What was looked at, what was found, and what to do about it."""

    status: Status
    what: str
    found: str
    remedy: str = ""


def as_table(rows: Iterable[Row], *, title: str) -> Table:
    """Rows as they are shown."""
    table = Table("", "what", "found", "what to do", title=title)
    for row in rows:
        colour = COLOURS[row.status]
        cells = (escape(each) for each in row[1:])
        table.add_row(f"[{colour}]{row.status.name}[/{colour}]", *cells)
    return table


def worst(rows: Iterable[Row]) -> Status:
    """The worst of them; PASS where there are none."""
    return max((row.status for row in rows), default=Status.PASS)
