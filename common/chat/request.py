"""What a user asks of a video language model: one question, a file of them, or a talk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.chat.decoder import Decoding
from common.data.conversations import Conversation, Turn, load_conversations
from common.text.prompt import VIDEO


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question about one video, a file of questions, or the first rows of the annotations.

    Attributes:
        video: file to ask about.
        prompt: the question.
        file: conversations in any form of `common.data.forms`, in place of the annotations; all are answered.
        media: folder that the videos of `file` are relative to; null: that of the data.
        count: how many rows of the annotations are answered, where neither of the above is given; null: all.
        temperature: 0 takes the most likely token.
        top_p: share of the probability that is drawn from, with a temperature.
        seed: of the draws.
    """

    video: str | None = None
    prompt: str | None = None
    file: str | None = None
    media: str | None = None
    count: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.video is not None and self.file is not None:
            raise ValueError("request.video asks about one video, request.file has questions of its own; give one")
        if self.prompt is not None and self.video is None:
            raise ValueError("request.prompt asks about request.video; give the video too")

    @property
    def own(self) -> bool:
        """Whether it brings its own videos, not those of the annotations."""
        return self.video is not None or self.file is not None

    def decoding(self, max_new_tokens: int) -> Decoding:
        """How the answers are chosen."""
        return Decoding(max_new_tokens=max_new_tokens, temperature=self.temperature, top_p=self.top_p, seed=self.seed)

    def conversations(self, annotations: Sequence[Conversation]) -> list[Conversation]:
        """What is to be answered.

        Args:
            annotations: rows of the data set, for a request without a video or file.
        """
        if self.video is not None:
            return [question(self.video, [Turn(self.prompt or "", None)])]
        if self.file is not None:
            return load_conversations(Path(self.file))
        return list(annotations)[: self.count]


def reports(request: Request | None) -> bool:
    """Whether a video that is missing or cannot be read is a line with its reason among the answers.

    In training and for a single question it is an error.
    """
    return request is not None and request.video is None


class Unreadable(NamedTuple):
    """A conversation whose video cannot be read."""

    number: int
    reason: str


def question(video: str, turns: Sequence[Turn]) -> Conversation:
    """A conversation about a video whose last turn is to be answered.

    Raises:
        ValueError: the question is empty.
    """
    if not turns[-1].user.strip():
        raise ValueError(
            "request.video names a video; say what to ask in request.prompt, or talk with request.chat=true"
        )
    first = turns[0]._replace(user=VIDEO + turns[0].user)
    return Conversation(id="request", video=video, turns=(first, *turns[1:]), where="request")


def record(row: Conversation, *, pred: str | None, error: str | None = None) -> dict[str, str | None]:
    """One line of an answer file, in the published names: `answer` is the truth, `pred` what the model says."""
    ask, truth = row.turns[-1]
    line: dict[str, str | None] = {
        "id": row.id,
        "video": None if row.video is None else str(row.video),
        "question": ask.replace(VIDEO, "").strip(),
        "answer": truth,
        "pred": pred,
    }
    return line if error is None else line | {"error": error}
