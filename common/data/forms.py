"""The ways to write a conversation about a video in a file, each read into one form in memory.

A form is a function from a row to a `Conversation` and the keys that tell it (`FORMS`); a new one adds both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from common.text.prompt import VIDEO, Turn

Row = Mapping[str, Any]
T = TypeVar("T")

USER, ASSISTANT, SYSTEM = {"human", "user"}, {"gpt", "assistant"}, {"system"}
OTHER_MEDIA = ("image", "images", "audio", "audios")


class DataError(ValueError):
    """An annotation file does not hold what it should: names the file, the row, the field and the remedy."""

    def __init__(self, where: str, field: str, problem: str) -> None:
        super().__init__(f"{where}, {field}: {problem}")


@dataclass(frozen=True)
class Conversation:
    """Questions and answers about at most one video.

    Attributes:
        id: name of the row.
        video: path as in the file, relative to the media folder; None for a conversation about no video.
        turns: in order; `<video>` still stands in the user text where the file has it.
        where: file and row, for messages.
        type: kind of question, where the file tells it.
        options: from how many answers one guesses, where the file tells it.
        novel: whether the row asks for something that training never shows.
        system: instruction that replaces the template's.
    """

    id: str
    video: str | None
    turns: tuple[Turn, ...]
    where: str
    type: str | None = None
    options: int | None = None
    novel: bool = False
    system: str | None = None


class Form(NamedTuple):
    """One way to write conversations: its name, the keys that tell it, and what reads a row of it."""

    name: str
    keys: frozenset[str]
    read: Callable[[Row, int, str], Conversation]


def convert(row: object, number: int, where: str) -> Conversation:
    """Reads a row in whichever form its keys tell."""
    if not isinstance(row, dict):
        raise DataError(where, "row", f"is {type(row).__name__}, not an object")
    for form in FORMS:
        if form.keys <= row.keys():
            return form.read(row, number, where)
    known = "; ".join(f"{form.name}: {', '.join(sorted(form.keys))}" for form in FORMS)
    raise DataError(where, "keys", f"{sorted(row)} fit none of the forms ({known}); convert it to one of them")


def _read_turns(row: Row, number: int, where: str) -> Conversation:
    """`conversations` of {from, value} with `video`: the training file of LLaVA and Video-ChatGPT."""
    entries = _entries(row, "conversations", speaker="from", text="value", where=where)
    return _conversation(row, number, where, entries, _videos(row, where))


def _read_messages(row: Row, number: int, where: str) -> Conversation:
    """`messages` of {role, content} with `videos`: LLaMA-Factory, ms-swift, and the built-in data."""
    messages, videos = _join_parts(row["messages"], where)
    entries = _entries({"messages": messages}, "messages", speaker="role", text="content", where=where)
    return _conversation(row, number, where, entries, [*_videos(row, where), *videos])


def _read_video_instruct(row: Row, number: int, where: str) -> Conversation:
    """`q`, `a`, `video_id`: VideoInstruct-100K as downloaded.

    The published conversion puts the video behind the question in even rows and before it in odd ones.
    """
    question, answer = _text(row, "q", where), _text(row, "a", where)
    user = f"{question}\n{VIDEO}" if number % 2 == 0 else f"{VIDEO}\n{question}"
    video = _text(row, "video_id", where)
    entries = [("user", user), ("assistant", answer)]
    return _conversation({"id": f"{video}/{number}", **row}, number, where, entries, [video])


FORMS: Sequence[Form] = (
    Form("LLaVA / Video-ChatGPT training", frozenset({"conversations"}), _read_turns),
    Form("messages, with videos", frozenset({"messages"}), _read_messages),
    Form("VideoInstruct", frozenset({"q", "a", "video_id"}), _read_video_instruct),
)


# What the forms share


def _conversation(row: Row, number: int, where: str, entries: list[tuple[str, str]], videos: list[str]) -> Conversation:
    """Checks what every form must fulfil."""
    for key in OTHER_MEDIA:
        if row.get(key):
            raise DataError(where, key, "only videos are read; take the row out")
    if len(videos) > 1:
        raise DataError(where, "videos", f"{len(videos)} videos; a conversation is about one, split the row")
    system, turns = _turns(entries, where)
    markers = sum(turn.user.count(VIDEO) for turn in turns)
    if markers != len(videos):
        problem = f"{markers} markers {VIDEO} in the questions for {len(videos)} videos; write one for each"
        raise DataError(where, "text", problem)
    if any(VIDEO in (turn.assistant or "") for turn in turns):
        raise DataError(where, "text", f"an answer contains {VIDEO}; the marker belongs into a question")
    return Conversation(
        id=str(row.get("id", number)),
        video=videos[0] if videos else None,
        turns=turns,
        where=where,
        type=_optional(row, "type", str, where),
        options=_optional(row, "options", int, where),
        novel=_optional(row, "novel", bool, where) or False,
        system=system or _optional(row, "system", str, where) or _optional(row, "system_prompt", str, where),
    )


def _turns(entries: list[tuple[str, str]], where: str) -> tuple[str | None, tuple[Turn, ...]]:
    """Instruction and turns from (speaker, text) entries: user and assistant in turn, the user first."""
    system = None
    if entries and entries[0][0] in SYSTEM:
        system, entries = entries[0][1], entries[1:]
    if not entries:
        raise DataError(where, "turns", "there is none; take the row out")
    for place, (speaker, _) in enumerate(entries):
        if speaker not in (ASSISTANT if place % 2 else USER):
            wanted = "an answer" if place % 2 else "a question"
            raise DataError(where, f"entry {place}", f"is by {speaker!r}, {wanted} belongs there")
    users, assistants = [text for _, text in entries[::2]], [text for _, text in entries[1::2]]
    for assistant in assistants:
        if not assistant.strip():
            raise DataError(where, "answer", "is empty; nothing is learned from it, take the row out")
    asked = [*assistants, *([None] if len(users) > len(assistants) else [])]
    return system, tuple(Turn(user, assistant) for user, assistant in zip(users, asked, strict=True))


def _entries(row: Row, key: str, *, speaker: str, text: str, where: str) -> list[tuple[str, str]]:
    listed = row[key]
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise DataError(where, key, f"is not a list of objects with {speaker} and {text}")
    return [(_text(entry, speaker, where), _text(entry, text, where)) for entry in listed]


def _join_parts(messages: Any, where: str) -> tuple[Any, list[str]]:
    """Content given as a list of {type: text | video} parts, as text with markers; and the parts' videos."""
    joined: list[Any] = []
    videos: list[str] = []
    if not isinstance(messages, list):
        return messages, videos
    for message in messages:
        parts = message.get("content") if isinstance(message, dict) else None
        if isinstance(parts, list):
            texts = [_part(part, where, videos) for part in parts]
            message = {**message, "content": "\n".join(texts)}
        joined.append(message)
    return joined, videos


def _part(part: Any, where: str, videos: list[str]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "video":
        videos.append(_text(part, "video" if "video" in part else "path", where))
        return VIDEO
    if kind != "text":
        raise DataError(where, "content", f"holds a part of type {kind!r}; text and video are read")
    return _text(part, "text", where)


def _videos(row: Row, where: str) -> list[str]:
    """Paths under `video` or `videos`; the name of a feature file of Video-ChatGPT stands for its video."""
    key = "videos" if "videos" in row else "video"
    value = row.get(key)
    listed = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(path, str) and path for path in listed):
        raise DataError(where, key, "is not a path or a list of paths; mend the row")
    return [path.removesuffix(".pkl") for path in listed]


def _text(row: Row, key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        found = "missing" if value is None else type(value).__name__
        raise DataError(where, key, f"should be text, is {found}; mend the row or take it out")
    return value


def _optional(row: Row, key: str, kind: type[T], where: str) -> T | None:
    value = row.get(key)
    if value is not None and type(value) is not kind:
        raise DataError(where, key, f"should be {kind.__name__}, is {type(value).__name__}; mend it")
    return value
