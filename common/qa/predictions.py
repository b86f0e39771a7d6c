"""Predicted answers, from one file or from the shards of many processes, joined with the items of a benchmark.

A row is joined by its id (`question_id` or `id`), or, where it has none, by its video and question. The place of a row
in its file means nothing, so shuffled and sharded predictions give the same scores as one file in order.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.data.fields import Video
from common.qa.benchmarks import Benchmark, BenchmarkError, Item, Row, read_rows, some, text

SUFFIXES = (".json", ".jsonl")
ONE = ("pred", "prediction")
TWO = ("pred1", "pred2")


@dataclass
class Answers:
    """What is known of the answers to the items of a benchmark.

    Attributes:
        texts: predictions by item id, as many as the item has questions.
        failed: reason by item id, where a row says that there is no answer (`pred` null, reason in `error`).
        unanswered: ids of items that no row is about, or only half of a pair.
        repeated: rows that say the same again, as a sampler that fills up its last batch writes them.
        other_reference: rows that carry another reference answer than the benchmark, which is the one that counts.
    """

    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unanswered: tuple[str, ...] = ()
    repeated: int = 0
    other_reference: int = 0


def join(benchmark: Benchmark, paths: Sequence[Path]) -> Answers:
    """Reads prediction files and joins their rows with the benchmark's items.

    Forms of a row: `id` or `question_id` with `pred` (or `prediction`), which may go with the item's question and
    answer in any naming; `video_name`, `Q`, `A`, `pred`; `video_name`, `Q1`, `Q2`, `A`, `pred1`, `pred2`. One wording
    of a pair may have a row of its own, with "#1" or "#2" after the id.

    Args:
        benchmark: what was asked.
        paths: files, or folders of files.

    Raises:
        BenchmarkError: no file; a row about no item, or that fits several which differ; two rows about one item that
            say different things.
    """
    answers = Answers()
    finder = _Finder(benchmark)
    parts: dict[str, dict[int, str | None]] = defaultdict(dict)
    reasons: dict[str, str] = {}
    for path in prediction_files(paths):
        for where, row in read_rows(path):
            predicted = _predicted(row, where)
            item, first = finder.find(row, predicted, parts, where)
            answers.other_reference += _other_reference(row, item)
            known = parts[item.id]
            new = {first + offset: each for offset, each in enumerate(predicted)}
            answers.repeated += bool(known.keys() & new.keys())
            for part, each in new.items():
                if part in known and known[part] != each:
                    raise BenchmarkError(f"{where}: another prediction for {item.id!r} than in an earlier row")
            known.update(new)
            if None in predicted:
                reasons[item.id] = str(row.get("error") or "no reason given")
    _sort_out(benchmark, parts, reasons, answers)
    return answers


def _sort_out(
    benchmark: Benchmark, parts: Mapping[str, Mapping[int, str | None]], reasons: Mapping[str, str], answers: Answers
) -> None:
    unanswered = []
    for item in benchmark.items:
        given = [parts[item.id].get(part) for part in range(len(item.questions))] if item.id in parts else []
        whole = tuple(each for each in given if each is not None)
        if item.id in reasons:
            answers.failed[item.id] = reasons[item.id]
        elif len(whole) == len(item.questions):
            answers.texts[item.id] = whole
        else:
            unanswered.append(item.id)
    answers.unanswered = tuple(unanswered)


def prediction_files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those of folders.

    Raises:
        BenchmarkError: there is none.
    """
    if not paths:
        raise BenchmarkError("no prediction file is named; give predictions=[file, ...] or a folder of them")
    files: list[Path] = []
    for path in paths:
        found = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES) if path.is_dir() else [path]
        if not found:
            raise BenchmarkError(f"{path}: a folder without {' or '.join(SUFFIXES)} files")
        files += found
    return files


def _predicted(row: Row, where: str) -> tuple[str | None, ...]:
    fields = TWO if any(name in row for name in TWO) else next(((name,) for name in ONE if name in row), None)
    if fields is None:
        raise BenchmarkError(f"{where}: no pred (or pred1 and pred2); the row has {sorted(row)}")
    values = tuple(row.get(name) for name in fields)
    if any(value is not None and not isinstance(value, str) for value in values):
        raise BenchmarkError(f"{where}: {' and '.join(fields)} should hold text, or null where there is no answer")
    return values


def _reference(row: Row) -> str | None:
    value = row.get("A", row.get("answer"))
    return None if value is None else str(value).strip()


def _other_reference(row: Row, item: Item) -> bool:
    return _reference(row) not in (None, item.reference)


class _Finder:
    """Finds the item that a row is about, and which of its questions the row's first prediction answers."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.by_part = {item.id: (item, 0) for item in benchmark.items}
        for item in benchmark.items:
            if len(item.questions) > 1:
                self.by_part |= {f"{item.id}#{part + 1}": (item, part) for part in range(len(item.questions))}
        self.by_words: dict[tuple[Video, ...], list[Item]] = defaultdict(list)
        for item in benchmark.items:
            self.by_words[item.video, *item.questions].append(item)

    def find(
        self,
        row: Row,
        predicted: tuple[str | None, ...],
        parts: Mapping[str, Mapping[int, str | None]],
        where: str,
    ) -> tuple[Item, int]:
        """The item and the place of the row's first prediction in it."""
        name = next((key for key in ("question_id", "id") if row.get(key) is not None), None)
        if name is None:
            item, part = self._by_words(row, predicted, parts, where), 0
        else:
            key = text(row, name, where)
            if key not in self.by_part:
                raise BenchmarkError(f"{where}: {name} {key!r} is no item of the benchmark; is it of another split?")
            item, part = self.by_part[key]
            if len(predicted) == 1 < len(item.questions) and "#" not in key:
                raise BenchmarkError(f"{where}: {key!r} has two questions; give pred1 and pred2, or ids with #1 and #2")
        if part + len(predicted) > len(item.questions):
            raise BenchmarkError(f"{where}: {len(predicted)} predictions for the one question of {item.id!r}")
        return item, part

    def _by_words(
        self, row: Row, predicted: tuple[str | None, ...], parts: Mapping[str, Mapping[int, str | None]], where: str
    ) -> Item:
        names = ("Q1", "Q2") if len(predicted) > 1 else ("Q" if "Q" in row else "question",)
        words = (text(row, "video_name", where), *(text(row, name, where) for name in names))
        reference = _reference(row)
        fitting = [item for item in self.by_words.get(words, []) if reference in (None, item.reference)]
        if not fitting:
            told = "" if reference is None else f" and the answer {reference!r}"
            raise BenchmarkError(f"{where}: the benchmark has no question {words[1:]} about {words[0]!r}{told}")
        if len({item.reference for item in fitting}) > 1:
            references = some([item.reference for item in fitting])
            raise BenchmarkError(f"{where}: several questions read like this ({references}); give id or A")
        # Items alike in video, question and reference are the same question: each takes one of the rows about it.
        free = [item for item in fitting if item.id not in parts]
        if free:
            return free[0]
        told_again = [item for item in fitting if tuple(parts[item.id].values()) == predicted]
        return told_again[0] if told_again else fitting[0]
