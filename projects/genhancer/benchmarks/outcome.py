"""What a benchmark finds about one model: which cases it has right, measure by measure, and what it answered."""

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.files import atomic_write_text
from common.metrics.interval import Estimate, wilson
from projects.genhancer.benchmarks.reader import Reader

ALL = "all"
Row = Mapping[str, str | int | float]


class BenchmarkError(ValueError):
    """The files of a benchmark are not as they should be: names the file and the remedy."""


@dataclass(frozen=True)
class Measure:
    """Cases that a model has right or wrong.

    Attributes:
        ids: of the cases; the same for every model.
        right: whether the model has each right.
        groups: group of each case; empty where there are none.
    """

    ids: Sequence[str]
    right: Sequence[bool]
    groups: Sequence[str] = ()

    def within(self, group: str) -> "Measure":
        """The cases of one group, or of all."""
        if group == ALL:
            return Measure(self.ids, self.right)
        chosen = [number for number, each in enumerate(self.groups) if each == group]
        return Measure([self.ids[number] for number in chosen], [self.right[number] for number in chosen])

    def names(self) -> list[str]:
        """All, then the groups in the order in which they come."""
        return [ALL, *dict.fromkeys(self.groups)]


@dataclass(frozen=True)
class Outcome:
    """What one model did.

    Attributes:
        measures: by name.
        answers: a row for each question asked, for a CSV.
        chance: share that a guesser has right, by measure, where it is known.
        left_out: why what was left out was, by name of the file.
    """

    measures: Mapping[str, Measure]
    answers: Sequence[Row]
    chance: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def report(self) -> dict[str, dict[str, Estimate | float]]:
        """Share of cases that are right with Wilson's interval, by measure and group."""
        return {
            name: {group: wilson(sum(part.right), len(part.right)) for group, part in _groups(measure).items()}
            for name, measure in self.measures.items()
        }


def _groups(measure: Measure) -> dict[str, Measure]:
    return {group: measure.within(group) for group in measure.names()}


class Benchmark(ABC):
    """Questions to a model with known answers. Nothing is read before `identity`."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Settings and what tells the files from others, as JSON; looks at every file by name.

        Raises:
            BenchmarkError: something is missing or laid out in another way.
        """

    @abstractmethod
    def run(self, reader: Reader) -> Outcome:
        """Asks a model.

        Raises:
            BenchmarkError: as `identity`.
        """


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Rows with the columns of the first, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write_text(path, text.getvalue())
