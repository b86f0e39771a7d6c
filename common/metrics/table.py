"""A report of several rows as a table on the terminal and as JSON."""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from common.metrics.interval import Estimate

MOST = 8  # columns; more are easier to read as lines
Report = dict[str, dict[str, Estimate | float]]


def show(report: Mapping[str, Mapping[str, Estimate | float]], *, title: str) -> None:
    """Prints rows and columns, estimates with their 95 % intervals; the other way round where columns are many."""
    columns = list(dict.fromkeys(column for row in report.values() for column in row))
    cells = {(name, column): _cell(value) for name, row in report.items() for column, value in row.items()}
    if len(columns) > MOST:
        lines, heads = columns, list(report)
        cells = {(column, name): cell for (name, column), cell in cells.items()}
    else:
        lines, heads = list(report), columns
    table = Table("", *heads, title=title)
    for line in lines:
        table.add_row(line, *(cells.get((line, head), "") for head in heads))
    Console(width=max(80, 12 + 22 * (1 + len(heads)))).print(table)


def _cell(value: Estimate | float) -> str:
    if not isinstance(value, Estimate):
        return f"{value:.3f}"
    if math.isnan(value.low):
        return f"{value.value:.3f} ({value.cases} case)"
    dash = " to " if value.low < 0 else "-"
    return f"{value.value:.3f} ({value.low:.2f}{dash}{value.high:.2f})"


def as_json(report: Mapping[str, Mapping[str, Estimate | float]]) -> dict[str, dict[str, Any]]:
    """The report with estimates as {value, low, high, cases}; null for an end that does not exist."""
    return {
        name: {column: _plain(value) if isinstance(value, Estimate) else value for column, value in row.items()}
        for name, row in report.items()
    }


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {name: None if math.isnan(value) else value for name, value in estimate._asdict().items()}
