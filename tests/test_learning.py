"""The learning rung: a tiny method, trained by the commands of its README, reaches its stated numbers."""

import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "RESULTS.md"

pytestmark = [pytest.mark.learning, pytest.mark.slow]


def quickstart(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs the commands of `make quickstart` into a folder: rows of the evaluation, and the answers."""
    recipe = subprocess.run(["make", "-n", "quickstart"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"-m (launchers\.\w+.*)", recipe)
    assert len(commands) == 4
    for command in commands:
        words = [sys.executable, "-m", *command.split(), f"paths.outputs={folder}"]
        subprocess.run(words, cwd=ROOT, check=True)
    (metrics,) = folder.glob("video_chatgpt_tiny/*/evaluate_*/metrics.json")
    (answers,) = folder.glob("video_chatgpt_tiny/*/generate_*/generated.jsonl")
    lines = answers.read_text().splitlines()
    return json.loads(metrics.read_text()), [json.loads(line) for line in lines]


def test_video_chatgpt_reaches_its_numbers(tmp_path: Path) -> None:
    record, answers = quickstart(tmp_path)
    rows = record["rows"]
    value = {row: {kind: each["value"] for kind, each in rows[row].items()} for row in rows if row != "chance"}
    chance = rows["chance"]
    if os.environ.get("FRAMELAB_WRITE_RESULTS"):
        write_results(record)
    assert rows["real"]["macro"]["cases"] >= 600
    assert value["real"]["macro"] >= 0.90
    for kind in ("direction", "order"):
        assert value["real"][kind] >= 0.85
        for control in ("blind", "middle", "shuffled"):  # the interval of a control reaches down to chance, nearly
            assert rows[control][kind]["low"] <= chance[kind] + 0.05, (control, kind, rows[control][kind])
    assert value["before_training"]["macro"] < 0.5
    assert set(value["projector_only"]) == set(value["real"])
    assert len(answers) == 6
    assert all(answer["pred"] for answer in answers)


def write_results(record: dict[str, Any]) -> None:
    """The table of the README's numbers, with where they come from."""
    rows = record["rows"]
    columns = list(rows["real"])
    lines = [
        "# Results",
        "",
        "Written by `make learn`.",
        "",
        "## Video-ChatGPT, tiny, on the built-in moving shapes",
        "",
        f"{date.today()}, revision {str(record['revision'])[:12]}, two CPU cores. Exact match of the greedy answer "
        f"on {rows['real']['macro']['cases']} held-out questions, with 95 % intervals.",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for name, row in rows.items():
        cells = [cell(row.get(column)) for column in columns]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    RESULTS.write_text("\n".join(lines) + "\n")


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return f"{value['value']:.3f} ({value['low']:.2f}-{value['high']:.2f})"
    return f"{value:.3f}"
