"""What a judge is: something that replies to chats.

`common.qa.endpoint.Endpoint` asks a server, `common.qa.local.Local` a model on this machine, and `Recorded` repeats
what was said before.
"""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from common.files import digest, read_jsonl
from common.qa.prompts import Message, short_digest


class JudgeError(ValueError):
    """A judge cannot go on; the message names the cause and the remedy. Replies given so far are kept."""


class Chat(NamedTuple):
    """What a judge is asked in one go.

    Attributes:
        aspect: what about.
        id: of the benchmark's item.
        attempt: 1, or more after replies that could not be read.
        messages: the whole chat, earlier unreadable replies included.
    """

    aspect: str
    id: str
    attempt: int
    messages: list[Message]

    @property
    def prompt(self) -> str:
        """Digest of the messages."""
        return short_digest(self.messages)


class Reply(NamedTuple):
    """An answer to a chat.

    Attributes:
        text: what the judge says, or None where it refuses this one chat.
        model: the model that says so by its own account, which may be newer than the one asked for.
        refusal: why there is no text.
    """

    text: str | None
    model: str | None
    refusal: str | None = None


class Judge(Protocol):
    """Something that grades."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its replies depend on besides the messages; JSON can hold it; no secret is in it."""

    def ask(self, chats: Sequence[Chat]) -> Generator[tuple[int, Reply], None, None]:
        """Yields (place in `chats`, reply) as replies come in, in any order, each place once.

        Raises:
            JudgeError: it cannot go on.
        """


class Recorded:
    """Replies of an earlier evaluation (its `replies.jsonl`), or written by hand.

    A line holds `reply` and either `prompt`, the digest of the messages that it answers, or `aspect` and `id`, and then
    perhaps `attempt` (without it, the reply to every attempt). `model` may say whose words they are.
    """

    def __init__(self, *, path: str) -> None:
        """
        Args:
            path: JSON lines.

        Raises:
            JudgeError: no such file, a line without a field, or two different replies to one chat.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise JudgeError(f"judge.path={path}: no such file of recorded replies")
        self._rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        for number, row in enumerate(read_jsonl(self.path), start=1):
            where = f"{path} line {number}"
            if (
                not isinstance(row, dict)
                or "reply" not in row
                or not ("prompt" in row or {"aspect", "id"} <= row.keys())
            ):
                raise JudgeError(f"{where}: should hold reply, and prompt or aspect and id")
            key = (row["prompt"],) if "prompt" in row else (row["aspect"], str(row["id"]), row.get("attempt"))
            if self._rows.setdefault(key, row)["reply"] != row["reply"]:
                raise JudgeError(f"{where}: another reply to {key} than before; keep the one that counts")

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": "recorded", "replies": self.path.name, "digest": digest(self.path)}

    def ask(self, chats: Sequence[Chat]) -> Generator[tuple[int, Reply], None, None]:
        for place, chat in enumerate(chats):
            keys = ((chat.prompt,), (chat.aspect, chat.id, chat.attempt), (chat.aspect, chat.id, None))
            row = next((self._rows[key] for key in keys if key in self._rows), None)
            if row is None:
                raise JudgeError(
                    f"{self.path}: no reply about {chat.aspect} of {chat.id!r}, attempt {chat.attempt}, to this "
                    "text; have the prompts, the benchmark or the predictions changed since?"
                )
            yield place, Reply(str(row["reply"]), row.get("model"))
