"""Fields of a row of an annotation file, read with errors that name the file, the row, the field and the remedy."""

import re
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

Row: TypeAlias = Mapping[str, Any]
# A path or address as in the file, or the paths of a video's frames in order.
Video: TypeAlias = str | tuple[str, ...]
T = TypeVar("T")

VIDEO_KEYS = ("videos", "video", "video_url")
# Media written into the row itself: a long run without the dot or underscore of a file's name.
INLINE = re.compile(r"data:|[A-Za-z0-9+/=\s]{256,}\Z")


class DataError(ValueError):
    """An annotation file does not hold what it should: names the file, the row, the field and the remedy."""

    def __init__(self, where: str, field: str, problem: str) -> None:
        super().__init__(f"{where}, {field}: {problem}")


def text(row: Row, key: str, where: str) -> str:
    """A field that must hold text."""
    value = row.get(key)
    if not isinstance(value, str):
        found = "missing" if value is None else type(value).__name__
        raise DataError(where, key, f"should be text, is {found}; mend the row or take it out")
    return value


def optional(row: Row, key: str, kind: type[T], where: str) -> T | None:
    """A field that may be absent or null, and otherwise is exactly of a kind."""
    value = row.get(key)
    if value is not None and type(value) is not kind:
        raise DataError(where, key, f"should be {kind.__name__}, is {type(value).__name__}; mend it")
    return value


def entries(listed: object, key: str, *, speaker: str, said: str, where: str) -> list[tuple[str, str]]:
    """(speaker, text) of each entry of a list of objects."""
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise DataError(where, key, f"is not a list of objects with {speaker} and {said}")
    return [(text(entry, speaker, where), text(entry, said, where)) for entry in listed]


def videos(row: Row, where: str) -> list[Video]:
    """Videos under `videos`, `video` or `video_url`: one, or a list; a list inside the list is one video's frames."""
    given = [key for key in VIDEO_KEYS if row.get(key) not in (None, [], "")]
    if not given:
        return []
    if len(given) > 1:
        raise DataError(where, given[0], f"{' and '.join(given)} are both there; leave one")
    value = row[given[0]]
    return [video(each, given[0], where) for each in (value if isinstance(value, list) else [value])]


def video(value: object, key: str, where: str) -> Video:
    """One video: a path, an address, or a list of the paths of its frames.

    The name of a feature file of Video-ChatGPT (.pkl) stands for its video.
    """
    if isinstance(value, list) and value:
        frames = tuple(_path(each, key, where) for each in value)
        return frames if len(frames) > 1 else frames[0]
    return _path(value, key, where)


def _path(value: object, key: str, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(where, key, "is not a path, an address or a list of the paths of frames; mend the row")
    if INLINE.match(value):
        raise DataError(where, key, "holds the media itself (base64); write it to a file and name the file")
    return value.removeprefix("file://").removesuffix(".pkl")
