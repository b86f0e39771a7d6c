"""Models side by side on the same cases: one table before / after, and what each model answered."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.files import atomic_write_text
from common.metrics.interval import wilson
from common.metrics.paired import compare_paired
from common.metrics.table import Report, as_json, show
from projects.genhancer.benchmarks.outcome import BenchmarkError, Outcome, write_csv

log = logging.getLogger(__name__)
REPORT, TABLE, ANSWERS, LEFT_OUT = "report.json", "table.csv", "predictions", "left_out.csv"
Outcomes = dict[str, dict[str, Outcome]]  # by benchmark and model


def compared(outcomes: Outcomes) -> Report:
    """Rows by benchmark, measure and group; columns by model, and for each but the first its change and p-value.

    Raises:
        BenchmarkError: the models were not asked the same.
    """
    report: Report = {}
    for row, cases in _rows(outcomes):
        names = list(cases)
        report[row] = {name: wilson(sum(right), len(right)) for name, right in cases.items()}
        for name in names[1:]:
            paired = compare_paired(cases[names[0]], cases[name])
            report[row] |= {f"{name} - {names[0]}": paired.change, f"p of {name}": paired.p}
    return report


def write(folder: Path, outcomes: Outcomes) -> None:
    """The table on the terminal, as JSON and as CSV, and the answers."""
    report = compared(outcomes)
    show(report, title="share of cases that are right (95 % interval)")
    content = {"rows": as_json(report), "chance": _chance(outcomes)}
    atomic_write_text(folder / REPORT, json.dumps(content, indent=2) + "\n")
    write_csv(folder / TABLE, _flat(outcomes))
    left_out = []
    for name, by_model in outcomes.items():
        for model, outcome in by_model.items():
            write_csv(folder / ANSWERS / f"{name}.{model}.csv", outcome.answers)
        first = next(iter(by_model.values()))
        left_out += [{"benchmark": name, "file": file, "reason": why} for file, why in first.left_out.items()]
    if left_out:
        write_csv(folder / LEFT_OUT, left_out)
        log.warning("%d files were left out; see %s", len(left_out), LEFT_OUT)


def _rows(outcomes: Outcomes) -> Iterator[tuple[str, dict[str, Sequence[bool]]]]:
    """Names of rows, and which cases each model has right, in the same order."""
    for name, by_model in outcomes.items():
        first = next(iter(by_model.values()))
        for measure, found in first.measures.items():
            for group in found.names():
                parts = {model: outcome.measures[measure].within(group) for model, outcome in by_model.items()}
                if len({tuple(part.ids) for part in parts.values()}) > 1:
                    raise BenchmarkError(f"{name}: the models were asked different cases; run it again")
                yield f"{name}/{measure}/{group}", {model: part.right for model, part in parts.items()}


def _flat(outcomes: Outcomes) -> list[dict[str, Any]]:
    """The table in numbers: a row for each row of the report and each model."""
    flat = []
    for row, cases in _rows(outcomes):
        first = next(iter(cases.values()))
        for model, right in cases.items():
            paired = compare_paired(first, right)
            flat.append(
                {
                    "row": row,
                    "model": model,
                    "cases": len(right),
                    "right": sum(right),
                    "share": paired.after.value,
                    "low": paired.after.low,
                    "high": paired.after.high,
                    "change": paired.change.value,
                    "change_low": paired.change.low,
                    "change_high": paired.change.high,
                    "gained": paired.gained,
                    "lost": paired.lost,
                    "p": paired.p,
                }
            )
    return flat


def _chance(outcomes: Outcomes) -> dict[str, float]:
    return {
        f"{name}/{measure}": share
        for name, by_model in outcomes.items()
        for measure, share in next(iter(by_model.values())).chance.items()
    }
