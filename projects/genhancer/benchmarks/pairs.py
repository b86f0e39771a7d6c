"""The built-in pairs of pictures that differ in one detail, scored as MMVP is."""

from functools import cached_property
from pathlib import Path
from typing import Any

from common.files import digest, read_jsonl
from projects.genhancer.benchmarks.outcome import Benchmark, BenchmarkError, Measure, Outcome, Row
from projects.genhancer.benchmarks.reader import Reader
from projects.genhancer.benchmarks.two_by_two import choose, picture, right

GOLD = (True, False)  # the first caption is of the first picture


class ShapesPairs(Benchmark):
    """Each caption must choose its picture out of the two; per detail: position, mirror, colour, shape, size, count."""

    def __init__(self, *, root: str, split: str, prompt: str = "{}") -> None:
        """
        Args:
            root: of the built-in data set, written with the part "pairs".
            split: "train", "val" or "test".
            prompt: around each caption.
        """
        self.root, self.split, self.prompt = Path(root), split, prompt

    @property
    def table(self) -> Path:
        """The list of pairs."""
        return self.root / "pairs" / f"{self.split}.jsonl"

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The pairs.

        Raises:
            BenchmarkError: there are none.
        """
        made = "write them with: python -m launchers.prepare task=shapes 'task.parts=[pairs]'"
        if not self.table.is_file():
            raise BenchmarkError(f"{self.table} is not there; {made}")
        rows = read_jsonl(self.table)
        if not rows:
            raise BenchmarkError(f"{self.table} is empty; {made} task.pairs.{self.split}=NUMBER")
        return rows

    def identity(self) -> dict[str, Any]:
        """The table's digest, and that every picture is there."""
        missing = [path for path in self._pictures() if not path.is_file()]
        if missing:
            raise BenchmarkError(
                f"{missing[0]} is not there, of {len(missing)} missing pictures; run task=shapes again"
            )
        return {"benchmark": "shapes_pairs", "table": digest(self.table), "prompt": self.prompt}

    def run(self, reader: Reader) -> Outcome:
        """Asks a model; measure "pairs", grouped by detail."""
        pictures = reader.pictures(self._pictures(), description=f"pairs of {self.split}")
        texts = reader.texts([self.prompt.format(caption) for row in self.rows for caption in row["captions"]])
        choices = choose(reader, pictures, texts)
        hits = [right(choice, GOLD) for choice in choices]
        answers: list[Row] = [
            {
                "id": row["id"],
                "detail": row["detail"],
                "novel": int(row["novel"]),
                "pred1": picture(choice.first[0]),
                "pred2": picture(choice.first[1]),
                "score1": choice.scores[0],
                "score2": choice.scores[1],
                "right": int(hit),
            }
            for row, choice, hit in zip(self.rows, choices, hits, strict=True)
        ]
        details = [row["detail"] for row in self.rows]
        measure = Measure([row["id"] for row in self.rows], hits, details)
        return Outcome({"pairs": measure}, answers, chance={"pairs": 0.25})

    def _pictures(self) -> list[Path]:
        return [self.root / row[name] for row in self.rows for name in ("first", "second")]
