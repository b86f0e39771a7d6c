"""A report of several rows as a table on the terminal and as JSON."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from common.metrics.interval import Estimate

Report = dict[str, dict[str, Estimate | float]]


def show(report: Mapping[str, Mapping[str, Estimate | float]], *, title: str) -> None:
    """Prints rows and columns; an estimate with its 95 % interval."""
    columns = list(dict.fromkeys(column for row in report.values() for column in row))
    table = Table("", *columns, title=title)
    for name, row in report.items():
        table.add_row(name, *(_cell(row[column]) if column in row else "" for column in columns))
    Console(width=max(80, 12 + 22 * (1 + len(columns)))).print(table)


def _cell(value: Estimate | float) -> str:
    if isinstance(value, Estimate):
        return f"{value.value:.3f} ({value.low:.2f}-{value.high:.2f})"
    return f"{value:.3f}"


def as_json(report: Mapping[str, Mapping[str, Estimate | float]]) -> dict[str, dict[str, Any]]:
    """The report with estimates as {value, low, high, count}."""
    return {
        name: {column: value._asdict() if isinstance(value, Estimate) else value for column, value in row.items()}
        for name, row in report.items()
    }
