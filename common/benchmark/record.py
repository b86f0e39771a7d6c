"""What a benchmark found, as a file that another revision can be compared with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from common.benchmark.timer import Step
from common.config import ConfigError

# Unlike one of these, two records are of different runs.
SAME = ("experiment", "device", "devices", "nodes", "precision", "strategy", "micro", "global", "data", "weights")
SHOWN = {
    "step_seconds": "seconds a step, median",
    "samples_per_second": "samples a second",
    "tokens_per_second": "tokens a second",
    "tflop_per_sample": "TFLOP a sample",
    "peak_share": "share of the peak FLOP/s",
    "peak_bytes": "peak memory of a device, bytes",
    "estimated_bytes": "the same, estimated",
    "waiting_share": "share of time waiting for data",
}


def figures(
    steps: Sequence[Step],
    *,
    rows: int,
    tokens: float | None,
    operations: int,
    devices: int,
    peak: float | None,
    peak_bytes: int | None,
    estimated_bytes: float,
) -> dict[str, float | None]:
    """The figures of a run.

    Args:
        steps: that were timed, one or more.
        rows: of a global batch.
        tokens: of a row, or None.
        operations: floating-point operations of a row, forward and backward, 2 for each multiplication and addition;
            what activation checkpointing computes again is not counted.
        devices: N.
        peak: FLOP/s of a device at most, or None.
        peak_bytes: the most that a device held: allocated on a GPU, on a CPU what the process grew by.
        estimated_bytes: the same by `common.memory`.
    """
    seconds = [step.seconds for step in steps]
    middle = median(seconds)
    spread = quantiles(seconds, n=4) if len(seconds) > 1 else [middle] * 3
    return {
        "step_seconds": middle,
        "step_seconds_low": spread[0],
        "step_seconds_high": spread[2],
        "steps": float(len(seconds)),
        "samples_per_second": rows / middle,
        "tokens_per_second": None if tokens is None else tokens * rows / middle,
        "tflop_per_sample": operations / 1e12,
        "tflop_per_second_device": operations * rows / middle / devices / 1e12,
        "peak_share": None if peak is None else operations * rows / middle / devices / peak,
        "peak_bytes": None if peak_bytes is None else float(peak_bytes),
        "estimated_bytes": estimated_bytes,
        "waiting_share": sum(step.waiting for step in steps) / sum(seconds),
    }


def read(path: Path) -> dict[str, Any]:
    """A record that was written before.

    Raises:
        ConfigError: there is none.
    """
    if not path.is_file():
        raise ConfigError(f"benchmark.against={path}: no such file; give the benchmark.json of another run folder")
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or not {"what", "figures"} <= record.keys():
        raise ConfigError(f"benchmark.against={path} is not what a benchmark wrote")
    return record


def refuse_other(before: Mapping[str, Any], what: Mapping[str, Any]) -> None:
    """Raises ConfigError where a record is of another run than the one that begins: they cannot be compared."""
    other = [key for key in SAME if before["what"].get(key) != what.get(key)]
    if other:
        told = ", ".join(f"{key} was {before['what'].get(key)}, is {what.get(key)}" for key in other)
        raise ConfigError(f"benchmark.against is of another run: {told}")


def table(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[Sequence[str]]:
    """Rows of figures, beside those of a record from before and the ratio of both."""
    old = before["figures"] if before else {}
    rows: list[Sequence[str]] = [("", "now", "before", "now / before") if before else ("", "now")]
    for key, name in SHOWN.items():
        value, earlier = now["figures"][key], old.get(key)
        if value is None:
            continue
        more = (_number(earlier), f"{value / earlier:.3f}" if earlier else "") if before else ()
        rows.append((name, _number(value), *more))
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def slower(now: Mapping[str, Any], before: Mapping[str, Any], *, by: float) -> str | None:
    """Why the run counts as slower than before; None where it does not.

    Args:
        now: record.
        before: record.
        by: share of the time of a step that is still allowed.
    """
    ratio = now["figures"]["step_seconds"] / before["figures"]["step_seconds"]
    return None if ratio <= 1 + by else f"a step takes {ratio:.3f} times as long as before; {1 + by:.3f} is allowed"
