"""The ways to write a conversation about a video in a file, each read into one form in memory.

A form is a function from a row to a `Conversation` and the keys that tell it (`FORMS`); a new one adds both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.data.fields import DataError, Row, Video, entries, optional, text, videos
from common.data.parts import join_parts
from common.text.prompt import VIDEO, Turn

USER, ASSISTANT, SYSTEM = {"human", "user"}, {"gpt", "assistant"}, {"system"}
OTHER_MEDIA = ("image", "images", "audio", "audios")
REJECTED = ("rejected", "rejected_response", "rejected_messages")  # of a pair of answers, by its writer's habit


@dataclass(frozen=True)
class Conversation:
    """Questions and answers about at most one video.

    Attributes:
        id: name of the row.
        video: path as in the file, relative to the media folder, of a video, GIF, image or folder of images; an
            address; a tuple of the paths of its frames; None for a conversation about no video.
        turns: in order; `<video>` still stands in the user text where the file has it.
        where: file and row, for messages.
        type: kind of question, where the file tells it.
        options: from how many answers one guesses, where the file tells it.
        novel: whether the row asks for something that training never shows.
        system: instruction that replaces the template's.
        num_frames: how many frames of the video the row asks for, where the file tells it.
    """

    id: str
    video: Video | None
    turns: tuple[Turn, ...]
    where: str
    type: str | None = None
    options: int | None = None
    novel: bool = False
    system: str | None = None
    num_frames: int | None = None


class Form(NamedTuple):
    """One way to write conversations: its name, the keys that tell it, and what reads a row of it."""

    name: str
    keys: frozenset[str]
    read: Callable[[Row, int, str], Conversation]


def convert(row: object, number: int, where: str) -> Conversation:
    """Reads a row in whichever form its keys tell.

    Raises:
        DataError: it is in none of the forms, or lacks or contradicts something.
    """
    if not isinstance(row, dict):
        raise DataError(where, "row", f"is {type(row).__name__}, not an object")
    _refuse_preferences(row, where)
    for form in FORMS:
        if form.keys <= row.keys():
            return form.read(row, number, where)
    for form in FORMS:
        if form.keys & row.keys():
            missing = ", ".join(sorted(form.keys - row.keys()))
            raise DataError(where, "keys", f"{sorted(row)} lack {missing} of {form.name}; mend the row or take it out")
    known = "; ".join(f"{form.name}: {', '.join(sorted(form.keys))}" for form in FORMS)
    raise DataError(where, "keys", f"{sorted(row)} fit none of the forms ({known}); convert it to one of them")


def _read_messages(key: str) -> Callable[[Row, int, str], Conversation]:
    """Reader of a list of messages, {from, value} or {role, content}, in which content may be a list of parts.

    An image part without a file is a frame of the video that the row names; then there are `num_frames` of them.
    """

    def read(row: Row, number: int, where: str) -> Conversation:
        messages, media = join_parts(row[key], where)
        from_value = isinstance(messages, list) and any(isinstance(each, dict) and "from" in each for each in messages)
        tags = ("from", "value") if from_value else ("role", "content")
        said = entries(messages, key, speaker=tags[0], said=tags[1], where=where)
        named = videos(row, where)
        if media.unnamed and len(named) != 1:
            problem = f"{media.unnamed} images without a file are frames of one video, the row names {len(named)}"
            raise DataError(where, key, f"{problem}; name it in video_url, or give each image its path")
        count = optional(row, "num_frames", int, where)
        if media.unnamed and count not in (None, media.unnamed):
            problem = f"is {count}, the conversation has {media.unnamed} images; write one for each frame"
            raise DataError(where, "num_frames", problem)
        if media.unnamed:
            row = {**row, "num_frames": media.unnamed}
        return _conversation(row, number, where, said, [*named, *media.videos])

    return read


def _read_video_instruct(row: Row, number: int, where: str) -> Conversation:
    """`q`, `a`, `video_id`: VideoInstruct-100K as downloaded.

    The published conversion puts the video behind the question in even rows and before it in odd ones.
    """
    question, answer = text(row, "q", where), text(row, "a", where)
    user = f"{question}\n{VIDEO}" if number % 2 == 0 else f"{VIDEO}\n{question}"
    video = text(row, "video_id", where)
    said = [("user", user), ("assistant", answer)]
    return _conversation({"id": f"{video}/{number}", **row}, number, where, said, [video])


def _read_question_answers(row: Row, number: int, where: str) -> Conversation:
    """`video` with `QA` of {i, q, a}: VideoChat2. The instruction i is the system text, or asks where q is empty."""
    for key in ("start", "end"):
        if row.get(key) is not None:
            raise DataError(where, key, "asks for a part of the video; cut it into a file of its own")
    pairs = entries(row["QA"], "QA", speaker="q", said="a", where=where)
    told = [optional(each, "i", str, where) or "" for each in row["QA"]]
    system = told[0] if len(set(told)) == 1 and all(asked.strip() for asked, _ in pairs) else ""
    said: list[tuple[str, str]] = []
    for instruction, (asked, answer) in zip(told, pairs, strict=True):
        lines = [VIDEO] if not said else []
        lines += [line for line in ("" if system else instruction, asked) if line.strip()]
        said += [("user", "\n".join(lines)), ("assistant", answer)]
    return _conversation({"system": system or None, **row}, number, where, said, videos(row, where))


FORMS: Sequence[Form] = (
    Form("LLaVA / Video-ChatGPT training", frozenset({"conversations"}), _read_messages("conversations")),
    Form("messages, with videos", frozenset({"messages"}), _read_messages("messages")),
    Form("conversation of parts, with video_url", frozenset({"conversation"}), _read_messages("conversation")),
    Form("VideoInstruct", frozenset({"q", "a", "video_id"}), _read_video_instruct),
    Form("VideoChat2", frozenset({"QA"}), _read_question_answers),
)


# What the forms share


def _refuse_preferences(row: Row, where: str) -> None:
    for key in REJECTED:
        if row.get(key) is not None:
            problem = (
                "is the worse answer of a pair, and preferences are not trained on here; to learn the better one, "
                "write prompt and chosen as messages and leave this field out"
            )
            raise DataError(where, key, problem)


def _conversation(
    row: Row, number: int, where: str, said: list[tuple[str, str]], named: Sequence[Video]
) -> Conversation:
    """Checks what every form must fulfil."""
    for key in OTHER_MEDIA:
        if row.get(key):
            raise DataError(where, key, "is read only as a video: name the file in videos, or take the row out")
    if len(named) > 1:
        problem = f"{len(named)} videos; a conversation is about one, split the row"
        raise DataError(where, "videos", f"{problem} (the frames of one video are a list inside the list)")
    system, turns = _turns(said, where)
    markers = sum(turn.user.count(VIDEO) for turn in turns)
    if markers != len(named):
        problem = f"{markers} markers {VIDEO} in the questions for {len(named)} videos; write one for each"
        raise DataError(where, "text", problem)
    if any(VIDEO in (turn.assistant or "") for turn in turns):
        raise DataError(where, "text", f"an answer contains {VIDEO}; the marker belongs into a question")
    video = named[0] if named else None
    return Conversation(
        id=str(row.get("id", number)),
        video=video,
        turns=turns,
        where=where,
        type=optional(row, "type", str, where),
        options=optional(row, "options", int, where),
        novel=optional(row, "novel", bool, where) or False,
        system=system or optional(row, "system", str, where) or optional(row, "system_prompt", str, where),
        num_frames=_num_frames(row, video, where),
    )


def _num_frames(row: Row, video: Video | None, where: str) -> int | None:
    count = optional(row, "num_frames", int, where)
    if count is not None and count < 1:
        raise DataError(where, "num_frames", f"is {count}; at least one frame is seen")
    if count is not None and isinstance(video, tuple) and count != len(video):
        raise DataError(where, "num_frames", f"is {count}, the row lists {len(video)} frames; write that number")
    return count


def _turns(said: list[tuple[str, str]], where: str) -> tuple[str | None, tuple[Turn, ...]]:
    """Instruction and turns from (speaker, text) entries: user and assistant in turn, the user first."""
    system = None
    if said and said[0][0] in SYSTEM:
        system, said = said[0][1], said[1:]
    if not said:
        raise DataError(where, "turns", "there is none; take the row out")
    for place, (speaker, _) in enumerate(said):
        if speaker not in (ASSISTANT if place % 2 else USER):
            wanted = "an answer" if place % 2 else "a question"
            raise DataError(where, f"entry {place}", f"is by {speaker!r}, {wanted} belongs there")
    users, assistants = [words for _, words in said[::2]], [words for _, words in said[1::2]]
    for assistant in assistants:
        if not assistant.strip():
            raise DataError(where, "answer", "is empty; nothing is learned from it, take the row out")
    asked = [*assistants, *([None] if len(users) > len(assistants) else [])]
    return system, tuple(Turn(user, assistant) for user, assistant in zip(users, asked, strict=True))
