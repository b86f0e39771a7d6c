"""Conversations about videos, read from any of the files in `common.data.forms`, and the videos they name."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.data.forms import Conversation, DataError, convert
from common.files import read_jsonl
from common.text.prompt import Turn

__all__ = ["Conversation", "DataError", "Turn", "load_conversations", "resolve_media"]

log = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".flv", ".gif")
# A line that the makers of VideoInstruct-100K left at the end of many of its answers.
NOISE = "QA_GT_caption_based_noisy"


def load_conversations(path: Path, *, strip_noise: bool = True) -> list[Conversation]:
    """Reads an annotation file.

    Args:
        path: `.json` (a list of rows) or `.jsonl` (a row a line), rows in any of `forms.FORMS`.
        strip_noise: takes the line `QA_GT_caption_based_noisy` off the end of answers and logs how many had it.

    Raises:
        DataError: a row is in none of the forms, or lacks or contradicts something.
    """
    rows = _read_rows(path)
    conversations = [convert(row, number, f"{path} row {number}") for number, row in enumerate(rows)]
    return _without_noise(conversations) if strip_noise else conversations


def resolve_media(media: Path, row: Conversation) -> Path:
    """Path of a conversation's video; where the file leaves the extension out, the one that is there.

    Raises:
        DataError: no such file, or several that differ in their extension.
    """
    if row.video is None:
        raise DataError(row.where, "video", "the conversation names none")
    path = media / row.video
    if path.exists():
        return path
    found = [named for suffix in SUFFIXES if (named := path.with_name(path.name + suffix)).is_file()]
    if len(found) > 1:
        names = ", ".join(named.name for named in found)
        raise DataError(row.where, "video", f"{row.video} may be {names}; write the extension")
    if not found:
        problem = f"{path} is not there, with none of {' '.join(SUFFIXES)} either; check the media folder"
        raise DataError(row.where, "video", problem)
    return found[0]


def _read_rows(path: Path) -> list[Any]:
    if not path.is_file():
        raise DataError(str(path), "file", "is not there; check the path of the annotations")
    if path.suffix == ".jsonl":
        return list(read_jsonl(path))
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(str(path), "file", f"not JSON ({error}); one row a line is named .jsonl") from error
    if not isinstance(rows, list):
        raise DataError(str(path), "file", f"holds {type(rows).__name__}; it should hold a list of rows")
    if not rows:
        raise DataError(str(path), "file", "holds no rows")
    return rows


def _without_noise(conversations: list[Conversation]) -> list[Conversation]:
    cleaned, stripped = [], 0
    for row in conversations:
        turns = tuple(
            Turn(turn.user, turn.assistant.rstrip().removesuffix(NOISE).rstrip())
            if turn.assistant is not None and turn.assistant.rstrip().endswith(NOISE)
            else turn
            for turn in row.turns
        )
        if turns != row.turns:
            stripped += 1
            if any(turn.assistant == "" for turn in turns):
                raise DataError(row.where, "answer", f"holds nothing but {NOISE}; take the row out")
        cleaned.append(replace(row, turns=turns))
    if stripped:
        log.info("%d of %d rows ended in the stray line %s; it is taken off", stripped, len(cleaned), NOISE)
    return cleaned
