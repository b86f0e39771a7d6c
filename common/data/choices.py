"""Questions with options to choose from: the files of MVBench and Video-MME, and conversations with `choices`.

A style is a function from a row to a `ChoiceQuestion` and the keys that tell it (`STYLES`); a new one adds both.
"""

import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from common.data.conversations import read_rows
from common.data.fields import DataError, Row, text
from common.data.forms import Conversation, convert
from common.text.prompt import VIDEO, Turn

LETTERS = string.ascii_uppercase
LETTERED = re.compile(r"\(?([A-Z])[.):]\s*")  # "A. ", "A) ", "(A) ", "A: " before an option
BOUNDS = ("start", "end")


@dataclass(frozen=True, kw_only=True)
class ChoiceQuestion:
    """A question and the answers to choose from.

    Attributes:
        asked: the conversation up to the question; its last answer is wanted, its `type` is the kind of question.
        choices: two to 26 different answers.
        right: place of the right one.
    """

    asked: Conversation
    choices: tuple[str, ...]
    right: int


@dataclass(frozen=True, kw_only=True)
class Files:
    """What a file of questions leaves open.

    Attributes:
        folders: MVBench: folder of each task's videos, by the name of the task's file; null: the rows' paths are whole.
        kind: Video-MME: the field that accuracy is told by (task_type, duration, domain, sub_category).
        cut: MVBench: the videos are already cut to what lies between a row's `start` and `end`.
    """

    folders: Mapping[str, str] | None = None
    kind: str = "task_type"
    cut: bool = False


def load_choices(path: Path, *, files: Files | None = None) -> list[ChoiceQuestion]:
    """Reads questions with options.

    Args:
        path: a `.json` or `.jsonl` file in one of `STYLES`, or a folder of them, in which each file is a task.
        files: what the file leaves open.

    Raises:
        DataError: names the file, the row, the field and the remedy; options that repeat or are more than 26, and a
            right answer that is not among them, are such errors.
    """
    files = files or Files()
    return [question for file in _files(path) for question in _read(file, files)]


def _files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    tasks = sorted(each for each in path.iterdir() if each.suffix in (".json", ".jsonl"))
    if not tasks:
        raise DataError(str(path), "folder", "holds no .json or .jsonl file; name the folder of the tasks' files")
    return tasks


def _read(path: Path, files: Files) -> Iterator[ChoiceQuestion]:
    if path.suffix == ".parquet":
        problem = "is Parquet; write it as lines of JSON: pandas.read_parquet(file).to_json(to, orient='records', "
        raise DataError(str(path), "file", problem + "lines=True)")
    for number, row in enumerate(read_rows(path)):
        where = f"{path} row {number}"
        if not isinstance(row, dict):
            raise DataError(where, "row", f"is {type(row).__name__}, not an object")
        for part, each in _parts(row, where):
            yield _style(each, part).read(_Place(each, number, part, path.stem), files)


def _parts(row: Row, where: str) -> Iterator[tuple[str, Row]]:
    """The questions of a row: itself, or those under `questions`, which share its other fields."""
    questions = row.get("questions")
    if questions is None:
        yield where, row
        return
    if not isinstance(questions, list) or not questions or not all(isinstance(each, dict) for each in questions):
        raise DataError(where, "questions", "is not a list of questions; mend the row or take it out")
    shared = {key: value for key, value in row.items() if key != "questions"}
    for number, each in enumerate(questions):
        yield f"{where} question {number}", {**shared, **each}


class _Place(NamedTuple):
    """A row with its number, its place for messages, and the name of its file."""

    row: Row
    number: int
    where: str
    task: str


class Style(NamedTuple):
    """One way to write a question with options: its name, the keys that tell it, and what reads a row of it."""

    name: str
    keys: frozenset[str]
    read: Callable[[_Place, Files], ChoiceQuestion]


def _style(row: Row, where: str) -> Style:
    for style in STYLES:
        if style.keys <= row.keys():
            return style
    known = "; ".join(f"{style.name}: {', '.join(sorted(style.keys))}" for style in STYLES)
    raise DataError(where, "keys", f"{sorted(row)} hold no options to choose from ({known})")


def _read_conversation(place: _Place, files: Files) -> ChoiceQuestion:
    """Any row of `common.data.forms` with `choices`; the right one is its last answer, or the field `answer`."""
    row, where = place.row, place.where
    conversation = convert(row, place.number, where)
    *before, last = conversation.turns
    right = last.assistant if row.get("answer") is None else text(row, "answer", where)
    if right is None:
        raise DataError(where, "answer", "is missing, and the conversation ends with a question; say which is right")
    if last.assistant not in (None, right):
        raise DataError(where, "answer", f"is {right!r}, the conversation ends with {last.assistant!r}; leave one")
    asked = replace(conversation, turns=(*before, Turn(last.user, None)))
    choices = _choices(row, "choices", where)
    return _question(asked, choices, _among(right.strip(), choices, row["choices"], where))


def _read_mvbench(place: _Place, files: Files) -> ChoiceQuestion:
    """MVBench (arXiv:2311.17005): {video, question, candidates, answer}, the answer in words; a file is a task."""
    row, where = place.row, place.where
    bounds = [key for key in BOUNDS if row.get(key) is not None]
    if bounds and not files.cut:
        problem = "asks for a part of the video; cut the videos to their parts and say cut=true"
        raise DataError(where, bounds[0], problem)
    video = text(row, "video", where)
    if files.folders is not None:
        if place.task not in files.folders:
            known = ", ".join(sorted(files.folders))
            raise DataError(where, "video", f"folders names no folder for {place.task} (there is {known}); add it")
        video = f"{files.folders[place.task]}/{video}"
    choices = _choices(row, "candidates", where)
    right = _among(text(row, "answer", where).strip(), choices, row["candidates"], where)
    asked = _asked(row, place, video=video, name=f"{place.task}/{place.number}", kind=place.task)
    return _question(asked, choices, right)


def _read_video_mme(place: _Place, files: Files) -> ChoiceQuestion:
    """Video-MME (arXiv:2405.21075): {videoID, question, options, answer}, the answer a letter.

    The file of its authors' own evaluation has the questions of a video in a list, and `video_id` alone.
    """
    row, where = place.row, place.where
    video = text(row, "video_id" if row.get("videoID") is None else "videoID", where)
    choices = _choices(row, "options", where)
    letter = text(row, "answer", where).strip()
    if letter not in LETTERS[: len(choices)] or len(letter) != 1:
        problem = f"is {letter!r}, not one of {', '.join(LETTERS[: len(choices)])}; mend the row or take it out"
        raise DataError(where, "answer", problem)
    name = str(row.get("question_id", f"{video}/{place.number}"))
    asked = _asked(row, place, video=video, name=name, kind=text(row, files.kind, where))
    return _question(asked, choices, LETTERS.index(letter))


STYLES: Sequence[Style] = (
    Style("conversations with choices", frozenset({"choices"}), _read_conversation),
    Style("MVBench", frozenset({"question", "candidates", "answer"}), _read_mvbench),
    Style("Video-MME", frozenset({"question", "options", "answer"}), _read_video_mme),
)


# What the styles share


def _asked(row: Row, place: _Place, *, video: str, name: str, kind: str) -> Conversation:
    question = text(row, "question", place.where).strip()
    if not question or VIDEO in question:
        problem = f"is empty or contains {VIDEO}; the video is named in its own field"
        raise DataError(place.where, "question", problem)
    turns = (Turn(f"{VIDEO}\n{question}", None),)
    return Conversation(id=name, video=video, turns=turns, where=place.where, type=kind)


def _question(asked: Conversation, choices: tuple[str, ...], right: int) -> ChoiceQuestion:
    return ChoiceQuestion(asked=replace(asked, options=len(choices)), choices=choices, right=right)


def _choices(row: Row, key: str, where: str) -> tuple[str, ...]:
    """The options without the letters that a file may have before them."""
    listed = row[key]
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise DataError(where, key, "is not a list of texts; mend the row or take it out")
    if not 2 <= len(listed) <= len(LETTERS):
        raise DataError(where, key, f"holds {len(listed)} options; 2 to {len(LETTERS)} can be chosen from")
    choices = [each.strip() for each in listed]
    found = [match[1] if (match := LETTERED.match(each)) else None for each in choices]
    if found == sorted(LETTERS[: len(choices)]):
        choices = [LETTERED.sub("", each, count=1) for each in choices]
    elif None not in found:
        raise DataError(where, key, f"have the letters {', '.join(map(str, found))}; letter them A, B, ... in order")
    for choice in choices:
        if not choice or VIDEO in choice:
            raise DataError(where, key, f"holds an option that is empty or contains {VIDEO}; mend it")
        if choices.count(choice) > 1:
            raise DataError(where, key, f"holds {choice!r} {choices.count(choice)} times; options differ, leave one")
    return tuple(choices)


def _among(right: str, choices: tuple[str, ...], written: Sequence[str], where: str) -> int:
    """Place of the right answer among the options, or among them as the file writes them, with their letters."""
    for options in (choices, [each.strip() for each in written]):
        if right in options:
            return options.index(right)
    known = ", ".join(map(repr, choices))
    raise DataError(where, "answer", f"{right!r} is not among {known}; write it as the options have it")
