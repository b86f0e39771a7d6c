"""The rows of the benchmark: what each case took, beside what it should take, as a table and as JSON."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table


class Case(NamedTuple):
    """One way to take a step.

    Attributes:
        targets: m, frames of a clip that are learned.
        shared: whether these share the keys and values of the media; if not, each has its own, as published.
        cached: whether latents come from the cache; if not, they are encoded in the step.
    """

    targets: int
    shared: bool
    cached: bool


PUBLISHED = Case(targets=1, shared=False, cached=True)


@dataclass(frozen=True)
class Row:
    """What a case took.

    Attributes:
        case: what was done.
        clips: of a step.
        tflop: predicted operations a clip, 1e12.
        seconds: of each counted step.
        losses: of each step.
    """

    case: Case
    clips: int
    tflop: float
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Clips a second of each counted step."""
        return [self.clips / each for each in self.seconds]

    @property
    def rate(self) -> float:
        """Their median."""
        return statistics.median(self.rates)


def speedups(row: Row, other: Row) -> tuple[list[float], float]:
    """How often as many target frames a second a row gives as another: in each round, and by operations."""
    frames = row.case.targets / other.case.targets
    measured = [frames * a / b for a, b in zip(row.rates, other.rates, strict=True)]
    return measured, frames * other.tflop / row.tflop


def gains(rows: Mapping[Case, Row]) -> dict[str, float]:
    """What sharing and caching give at each number of target frames: medians, and the predictions."""
    figures = {}
    for targets in sorted({case.targets for case in rows}):
        both = Case(targets, shared=True, cached=True)
        for name, other in (("shared", both._replace(shared=False)), ("cached", both._replace(cached=False))):
            measured, predicted = speedups(rows[both], rows[other])
            figures[f"{name}_m{targets}"] = statistics.median(measured)
            figures[f"{name}_m{targets}_predicted"] = predicted
    return figures


def records(rows: Mapping[Case, Row]) -> list[dict[str, Any]]:
    """Every row with its figures, by name."""
    found = []
    for case, row in rows.items():
        measured, predicted = speedups(row, rows[PUBLISHED])
        found.append(
            {
                **case._asdict(),
                "clips_per_second": row.rate,
                "clips_per_second_least": min(row.rates),
                "clips_per_second_most": max(row.rates),
                "target_frames_per_second": row.rate * case.targets,
                "tflop_per_clip": row.tflop,
                "tflop_per_target_frame": row.tflop / case.targets,
                "tflop_per_second": row.rate * row.tflop,
                "speedup": statistics.median(measured),
                "speedup_least": min(measured),
                "speedup_most": max(measured),
                "speedup_predicted": predicted,
                "loss": statistics.median(row.losses),
            }
        )
    return found


def print_rows(rows: Mapping[Case, Row], figures: Mapping[str, float], *, title: str) -> None:
    """The table, and what it says about sharing and caching."""
    heads = ("m", "K/V", "latents", "clips/s", "range", "target frames/s", "TFLOP a clip", "TFLOP/s", "x", "predicted")
    table = Table(*heads, title=title)
    for record in records(rows):
        table.add_row(*_cells(record))
    console = Console(width=130)
    console.print(table)
    console.print("x: target frames a second against m = 1, published, cached; predicted: by operations")
    for name, label in (("shared", "keys and values shared"), ("cached", "latents cached")):
        parts = []
        for targets in sorted({case.targets for case in rows}):
            measured, predicted = (figures[f"{name}_m{targets}{end}"] for end in ("", "_predicted"))
            parts.append(f"m = {targets}: {measured:.2f} (predicted {predicted:.2f})")
        console.print(f"{label}, times as fast at {', '.join(parts)}", highlight=False)
    console.print(
        f"losses: shared and not differ by {figures['shared_difference']:.1g}, cached and not by "
        f"{figures['cached_difference']:.1g}; {figures['cached_encoder_calls']:.0f} calls of the autoencoder in cached "
        f"steps; peak {figures['peak_gib']:.1f} GiB",
        highlight=False,
    )


def _cells(record: Mapping[str, Any]) -> Sequence[str]:
    return (
        str(record["targets"]),
        "shared" if record["shared"] else "published",
        "cached" if record["cached"] else "encoded",
        f"{record['clips_per_second']:.3g}",
        f"{record['clips_per_second_least']:.3g} to {record['clips_per_second_most']:.3g}",
        f"{record['target_frames_per_second']:.3g}",
        f"{record['tflop_per_clip']:.3g}",
        f"{record['tflop_per_second']:.3g}",
        f"{record['speedup']:.2f}",
        f"{record['speedup_predicted']:.2f}",
    )
