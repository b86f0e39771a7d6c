"""What the learning tests of all methods share: running commands, and the table of results."""

import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "RESULTS.md"
HEAD = "# Results\n\nWritten by `make learn`, or by its functions from runs of the same commands.\n"


def call(command: str, folder: Path) -> None:
    """Runs `launchers.<command>` with its outputs below `folder`."""
    subprocess.run([sys.executable, "-m", *command.split(), f"paths.outputs={folder}"], cwd=ROOT, check=True)


def evaluation(folder: Path, name: str) -> dict[str, Any]:
    """What `evaluate` wrote about the only run of an experiment."""
    (metrics,) = folder.glob(f"{name}/*/evaluate_*/metrics.json")
    record: dict[str, Any] = json.loads(metrics.read_text())
    return record


def values(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Value of each cell, without the row of chance."""
    rows = record["rows"]
    return {row: {kind: each["value"] for kind, each in rows[row].items()} for row in rows if row != "chance"}


def write_results(title: str, record: dict[str, Any], *, told: str | None = None) -> None:
    """Puts the table of a method into RESULTS.md, if `make learn` asks for it; other methods' stay.

    Args:
        title: of the section.
        record: of `evaluate`.
        told: what the numbers are; by default accuracies of answers.
    """
    if not os.environ.get("FRAMELAB_WRITE_RESULTS"):
        return
    rows = record["rows"]
    columns = list(rows["real"])
    lines = [
        f"{date.today()}, revision {str(record['revision'])[:12]}, two CPU cores. {told or _answers(rows)}",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for name, row in rows.items():
        cells = [cell(row.get(column)) for column in columns]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    put_section(title, "\n".join(lines))


def put_section(title: str, content: str) -> None:
    """Puts a section into RESULTS.md in place of the one of this title; others stay."""
    text = RESULTS.read_text() if RESULTS.exists() else HEAD
    sections = [part for part in re.split(r"(?m)^(?=## )", text)[1:] if not part.startswith(f"## {title}\n")]
    sections.append(f"## {title}\n\n{content}\n")
    RESULTS.write_text("\n".join([HEAD, *(section.strip() + "\n" for section in sorted(sections))]))


def _answers(rows: dict[str, Any]) -> str:
    cases = rows["real"]["macro"]["cases"]
    return f"Exact match of the greedy answer on {cases} held-out questions, with 95 % intervals."


def cell(value: Any) -> str:
    """A cell of the table."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return f"{value['value']:.3f} ({value['low']:.2f}-{value['high']:.2f})"
    return f"{value:.3f}"
