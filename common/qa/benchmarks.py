"""Questions about videos with reference answers, read from the files that benchmarks publish.

Rows of a benchmark are joined by their id, never by their place: the answers of a zero-shot set lie in a second file,
and an evaluation that splits one of the two by place scores most answers against another question's reference.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.conversations import SUFFIXES, load_conversations
from common.data.fields import Video
from common.text.prompt import VIDEO

GENERIC = ("correctness", "detail", "context")
TEMPORAL = ("temporal",)
CONSISTENCY = ("consistency",)
ASPECTS = (*GENERIC, *TEMPORAL, *CONSISTENCY)  # of VCGBench, in the order in which its table is printed
ANSWER = "answer"  # the one aspect of the zero-shot sets: right or wrong, and a score
SHOWN = 5  # ids that a message names

Row = Mapping[str, Any]


class BenchmarkError(ValueError):
    """A file of a benchmark or of predictions does not hold what it should; names the file, the row, the remedy."""


@dataclass(frozen=True)
class Item:
    """One question, or two wordings of one, with the answer that predictions are compared with.

    Attributes:
        id: unique in its benchmark.
        video: as in the file; often without an extension, or the paths of its frames.
        questions: one wording, or the two of a consistency pair.
        reference: the true answer.
        type: kind of question where the file tells it, or the VCGBench file that it is from.
        aspects: what a judge is asked about it.
    """

    id: str
    video: Video
    questions: tuple[str, ...]
    reference: str
    type: str | None
    aspects: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """A named list of items and the files that they are from."""

    name: str
    items: tuple[Item, ...]
    files: tuple[Path, ...]

    @property
    def aspects(self) -> tuple[str, ...]:
        """Every aspect that some item is judged on, in printed order."""
        asked = {aspect for item in self.items for aspect in item.aspects}
        return tuple(aspect for aspect in (*ASPECTS, ANSWER) if aspect in asked)


def vcgbench(
    *, generic: str | None = None, temporal: str | None = None, consistency: str | None = None, name: str = "vcgbench"
) -> Benchmark:
    """Video-ChatGPT's benchmark of five aspects (arXiv:2306.05424): lists of {video_name, Q, A} or {.., Q1, Q2, A}.

    Its rows have no ids; the n-th row about a video in a file gets "<file>/<video>/<n>", n from 0.

    Args:
        generic: file of the questions that are judged on correctness, detail and context.
        temporal: file of those judged on the order of events.
        consistency: file of the pairs of wordings.
        name: of the table of published numbers that it stands beside.

    Raises:
        BenchmarkError: no file is given, or a row lacks a field.
    """
    groups = (
        ("generic", generic, GENERIC),
        ("temporal", temporal, TEMPORAL),
        ("consistency", consistency, CONSISTENCY),
    )
    given = [(group, Path(path), aspects) for group, path, aspects in groups if path is not None]
    if not given:
        raise BenchmarkError("vcgbench: give at least one of generic, temporal and consistency")
    items: list[Item] = []
    for group, path, aspects in given:
        seen: Counter[str] = Counter()
        fields = ("Q1", "Q2") if group == "consistency" else ("Q",)
        for where, row in read_rows(path):
            video = text(row, "video_name", where)
            questions = tuple(text(row, field, where) for field in fields)
            name_of_row = f"{group}/{video}/{seen[video]}"
            seen[video] += 1
            items.append(Item(name_of_row, video, questions, text(row, "A", where), group, aspects))
    return Benchmark(name, tuple(items), tuple(path for _, path, _ in given))


def zero_shot(*, questions: str, answers: str, name: str) -> Benchmark:
    """A zero-shot set (ActivityNet-QA, MSVD-QA, MSRVTT-QA, TGIF FrameQA): two lists joined by question_id.

    Args:
        questions: file of {video_name, question, question_id}.
        answers: file of {answer, question_id, type}; the type may be left out.
        name: of the table of published numbers that it stands beside.

    Raises:
        BenchmarkError: an id is there twice, a question has no answer, or an answer no question.
    """
    asked = _by_id(Path(questions))
    answered = _by_id(Path(answers))
    _refuse_unmatched(asked, answered, f"{questions}: questions without an answer in {answers}")
    _refuse_unmatched(answered, asked, f"{answers}: answers without a question in {questions}")
    items = []
    for key, (where, row) in asked.items():
        answer_where, answer = answered[key]
        kind = answer.get("type")
        reference = text(answer, "answer", answer_where)
        question = (text(row, "question", where),)
        video = text(row, "video_name", where)
        items.append(Item(key, video, question, reference, None if kind is None else str(kind), (ANSWER,)))
    return Benchmark(name, tuple(items), (Path(questions), Path(answers)))


def conversations(*, annotations: str, name: str) -> Benchmark:
    """Any file of `common.data.conversations`: the last question of each row, its answer the reference.

    Raises:
        BenchmarkError: an id is there twice, or a row has no answer or no video.
    """
    items: dict[str, Item] = {}
    for row in load_conversations(Path(annotations)):
        last = row.turns[-1]
        if last.assistant is None or row.video is None:
            raise BenchmarkError(f"{row.where}: has no {'video' if row.video is None else 'answer'} to compare with")
        if row.id in items:
            raise BenchmarkError(f"{row.where}: the id {row.id!r} is there twice; give each row an id of its own")
        question = last.user.replace(VIDEO, "").strip()
        items[row.id] = Item(row.id, row.video, (question,), last.assistant, row.type, (ANSWER,))
    return Benchmark(name, tuple(items.values()), (Path(annotations),))


def missing_videos(benchmark: Benchmark, media: Path) -> list[Video]:
    """Videos of a benchmark that are not in a folder, under their name or with a usual extension added.

    A video that is a list of frames is missing where one of them is.

    Raises:
        BenchmarkError: the folder itself is not there.
    """
    if not media.is_dir():
        raise BenchmarkError(f"media={media}: no such folder")
    videos = dict.fromkeys(item.video for item in benchmark.items)
    names = ("", *SUFFIXES)

    def there(name: str) -> bool:
        return any((media / f"{name}{suffix}").exists() for suffix in names)

    return [video for video in videos if not all(map(there, (video,) if isinstance(video, str) else video))]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a file with their place for messages: a JSON list, or one JSON object a line, told by its first sign.

    Raises:
        BenchmarkError: no such file, not JSON, no rows, or a row that is not an object.
    """
    if not path.is_file():
        raise BenchmarkError(f"{path}: no such file")
    content = path.read_text(encoding="utf-8")
    try:
        if content.lstrip().startswith("["):
            rows = json.loads(content)
        else:
            rows = [json.loads(line) for line in content.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"{path}: neither a JSON list nor one JSON object a line ({error})") from error
    if not rows:
        raise BenchmarkError(f"{path}: holds no rows")
    for number, row in enumerate(rows):
        where = f"{path} row {number}"
        if not isinstance(row, dict):
            raise BenchmarkError(f"{where}: is {type(row).__name__}, not an object")
        yield where, row


def text(row: Row, field: str, where: str) -> str:
    """A field that must hold text (a number is taken as its digits).

    Raises:
        BenchmarkError: it is not there, empty, or neither text nor a number.
    """
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise BenchmarkError(f"{where}: {field} is {value!r}; it should hold text. The row has {sorted(row)}")
    return str(value).strip()


def some(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _by_id(path: Path) -> dict[str, tuple[str, Row]]:
    rows: dict[str, tuple[str, Row]] = {}
    for where, row in read_rows(path):
        key = text(row, "question_id", where)
        if key in rows:
            raise BenchmarkError(f"{where}: question_id {key!r} is there twice, first in {rows[key][0]}")
        rows[key] = (where, row)
    return rows


def _refuse_unmatched(some_rows: Mapping[str, Any], others: Mapping[str, Any], problem: str) -> None:
    alone = [key for key in some_rows if key not in others]
    if alone:
        raise BenchmarkError(f"{problem}: {some(alone)}; are both files of the same set and split?")
