"""MMVP-VLM (arXiv:2401.06209): 135 pairs of pictures that CLIP takes for alike, in nine visual patterns."""

import csv
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from common.files import digest
from projects.genhancer.benchmarks.outcome import Benchmark, BenchmarkError, Measure, Outcome, Row
from projects.genhancer.benchmarks.reader import Reader
from projects.genhancer.benchmarks.two_by_two import choose, gold_of, picture, right

QUESTIONS, IMAGES = "Questions.csv", "MLLM_VLM Images"
PROMPT = "a photo of {}"
# In the order of the file, fifteen pairs each; the place of a pair decides, not its column.
PATTERNS = (
    "Orientation and Direction",
    "Presence of Specific Features",
    "State and Condition",
    "Quantity and Count",
    "Positional and Relational Context",
    "Color and Appearance",
    "Structural Characteristics",
    "Texts",
    "Viewpoint and Perspective",
)
PAIRS_EACH = 15
ROWS = 2 * PAIRS_EACH * len(PATTERNS)
FETCH = "fetch MMVP/MMVP_VLM from the Hugging Face Hub"


class Question(NamedTuple):
    """One row: a number from 1, the folder of its pattern, and what the picture of that number shows."""

    number: int
    folder: str
    statement: str


class Mmvp(Benchmark):
    """Scored as published: each statement must choose its picture out of the two, both statements of a pair."""

    def __init__(self, *, folder: str) -> None:
        """
        Args:
            folder: with `Questions.csv` and `MLLM_VLM Images/<pattern>/<number>.jpg`.
        """
        self.folder = Path(folder)

    @cached_property
    def pairs(self) -> list[tuple[Question, Question]]:
        """The 135 pairs in the order of the file.

        Raises:
            BenchmarkError: no such file, another number of rows, or a row that is not what it should be.
        """
        path = self.folder / QUESTIONS
        if not path.is_file():
            raise BenchmarkError(f"{path} is not there; {FETCH}")
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))[1:]  # the first is the header
        if len(rows) != ROWS:
            raise BenchmarkError(f"{path} has {len(rows)} rows below its header, the benchmark has {ROWS}; {FETCH}")
        questions = [_question(path, line, row) for line, row in enumerate(rows, start=2)]
        if sorted(each.number for each in questions) != list(range(1, ROWS + 1)):
            raise BenchmarkError(f"{path}: the rows are not numbered 1 to {ROWS}; {FETCH}")
        pairs = list(zip(questions[::2], questions[1::2], strict=True))
        for first, second in pairs:
            if first.number % 2 == 0 or second.number != first.number + 1:
                raise BenchmarkError(f"{path}: {first.number} and {second.number} are no pair; {FETCH}")
        return pairs

    def identity(self) -> dict[str, Any]:
        """The table's digest, and that every picture is there."""
        missing = [path for path in self._pictures() if not path.is_file()]
        if missing:
            raise BenchmarkError(f"{missing[0]} is not there, of {len(missing)} missing pictures; {FETCH}")
        return {"benchmark": "mmvp_vlm", "questions": digest(self.folder / QUESTIONS)}

    def run(self, reader: Reader) -> Outcome:
        """Asks a model; measure "pairs", grouped by pattern."""
        questions = [question for pair in self.pairs for question in pair]
        pictures = reader.pictures(self._pictures(), description="MMVP-VLM")
        texts = reader.texts([PROMPT.format(question.statement) for question in questions])
        answers: list[Row] = []
        hits = []
        for place, (pair, choice) in enumerate(zip(self.pairs, choose(reader, pictures, texts), strict=True)):
            gold = [gold_of(question.number) for question in pair]
            hits.append(right(choice, gold))
            answers.append(
                {
                    "qid1": pair[0].number,
                    "qid2": pair[1].number,
                    "pred1": picture(choice.first[0]),
                    "pred2": picture(choice.first[1]),
                    "gt1": picture(gold[0]),
                    "gt2": picture(gold[1]),
                    "score1": choice.scores[0],
                    "score2": choice.scores[1],
                    "pattern": PATTERNS[place // PAIRS_EACH],
                    "right": int(hits[-1]),
                }
            )
        patterns = [str(answer["pattern"]) for answer in answers]
        ids = [f"{pair[0].number}-{pair[1].number}" for pair in self.pairs]
        return Outcome({"pairs": Measure(ids, hits, patterns)}, answers, chance={"pairs": 0.25})

    def _pictures(self) -> list[Path]:
        """Both pictures of each pair; the first row names the folder."""
        images = self.folder / IMAGES
        return [images / pair[0].folder / f"{question.number}.jpg" for pair in self.pairs for question in pair]


def _question(path: Path, line: int, row: list[str]) -> Question:
    if len(row) != 3 or not row[0].strip().isdecimal() or not row[1] or not row[2].strip():
        raise BenchmarkError(f"{path} line {line} is not a number, a pattern and a statement: {row}; {FETCH}")
    return Question(int(row[0]), row[1], row[2])
