"""From a batch of questions to lines of an answer file."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from common.chat.decoder import Decoding, answer
from common.chat.request import Unreadable, record
from common.chat.rows import ChatRows, ChatText

Line = dict[str, str | None]


class WithText(Protocol):
    """A batch with the texts of its conversations."""

    @property
    def text(self) -> ChatText: ...


Batch = TypeVar("Batch", bound=WithText)


class Asked(NamedTuple):
    """Requests of a micro-batch: those whose video can be read, and the others."""

    batch: WithText | None
    unreadable: list[Unreadable]


def answer_texts(
    model: PreTrainedModel, embeddings: Tensor, text: ChatText, rows: ChatRows, *, decoding: Decoding
) -> list[str]:
    """What a model says after the last question of each conversation.

    Args:
        model: decoder with head.
        embeddings: (B, L, width), of a batch without shared videos.
        text: of the same batch.
        rows: that the batch was taken from.
        decoding: how tokens are chosen.
    """
    numbers = text.conversations.tolist()
    assert len(numbers) == len(embeddings), "conversations that share a video cannot be answered together"
    tokenizer = rows.format.tokenizer
    generated = answer(
        model,
        [row[: rows.prompt_length(number)] for row, number in zip(embeddings, numbers, strict=True)],
        decoding=decoding,
        ends=[tokenizer.eos_token_id],
        names=[f"{rows.conversations[number].id}/{number}" for number in numbers],
    )
    return [str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in generated]


def answer_lines(asked: Asked, rows: ChatRows, *, answers: Callable[[WithText], Sequence[str]]) -> list[Line]:
    """One line for each request, in their order; what cannot be read has no answer, and a reason.

    Args:
        asked: the requests.
        rows: that they were taken from.
        answers: says what the model answers to a batch.
    """
    lines = {
        each.number: record(rows.conversations[each.number], pred=None, error=each.reason) for each in asked.unreadable
    }
    if asked.batch is not None:
        numbers = asked.batch.text.conversations.tolist()
        for number, pred in zip(numbers, answers(asked.batch), strict=True):
            lines[number] = record(rows.conversations[number], pred=pred)
    return [lines[number] for number in sorted(lines)]
