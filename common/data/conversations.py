"""Conversations about videos, read from any of the files in `common.data.forms`, and the videos they name."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.data.fields import DataError
from common.data.forms import Conversation, convert
from common.files import read_jsonl
from common.text.prompt import Turn

__all__ = ["Conversation", "DataError", "Turn", "load_conversations", "read_rows", "resolve_media", "resolve_source"]

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
    rows = read_rows(path)
    conversations = [convert(row, number, f"{path} row {number}") for number, row in enumerate(rows)]
    return _without_noise(conversations) if strip_noise else conversations


def resolve_source(media: Path, row: Conversation) -> Path | tuple[Path, ...]:
    """What `common.video.decode` reads for a conversation: the path of its video, or the paths of its frames.

    Where the file leaves the extension of a video out, it is the one that is there.

    Args:
        media: folder that the paths of the file are relative to.
        row: a conversation about a video.

    Raises:
        DataError: no such file, several that differ in their extension, an address, or no video.
    """
    if row.video is None:
        raise DataError(row.where, "video", "the conversation names none")
    if isinstance(row.video, str):
        return _located(media, row.video, row.where)
    return tuple(_located(media, frame, row.where) for frame in row.video)


def resolve_media(media: Path, row: Conversation) -> Path:
    """`resolve_source` for who reads one path of each conversation.

    Raises:
        DataError: as there, or the row lists frames.
    """
    source = resolve_source(media, row)
    if isinstance(source, tuple):
        problem = f"is a list of {len(source)} frames, and one path is read here; put them into a folder and name it"
        raise DataError(row.where, "video", problem)
    return source


def _located(media: Path, name: str, where: str) -> Path:
    if "://" in name:
        problem = f"{name} is an address; fetch it with `python -m launchers.prepare task=fetch_videos`"
        raise DataError(where, "video", problem)
    path = media / name
    if path.exists():
        return path
    found = [named for suffix in SUFFIXES if (named := path.with_name(path.name + suffix)).is_file()]
    if len(found) > 1:
        names = ", ".join(named.name for named in found)
        raise DataError(where, "video", f"{name} may be {names}; write the extension")
    if not found:
        problem = f"{path} is not there, with none of {' '.join(SUFFIXES)} either; check the media folder"
        raise DataError(where, "video", problem)
    return found[0]


def read_rows(path: Path) -> list[Any]:
    """Rows of a `.json` list or a `.jsonl` file, as they are.

    Raises:
        DataError: the file is missing, empty or not JSON.
    """
    if not path.is_file():
        raise DataError(str(path), "file", "is not there; check the path of the annotations")
    try:
        rows = read_jsonl(path) if path.suffix == ".jsonl" else json.loads(path.read_text(encoding="utf-8"))
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
