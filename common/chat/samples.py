"""A few rows of a data set, put to the model as questions."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from common.chat.rows import ChatRows
from common.types import Pick


class ChatData(Protocol):
    """What the chat data sets of all projects have: texts, and rows that become batches."""

    text: ChatRows

    def __getitem__(self, pick: Pick) -> Any:
        """The visual side of a row, a named tuple with its `pick`."""

    def batch(self, rows: Sequence[Any]) -> Any:
        """A micro-batch."""


Data = TypeVar("Data", bound=ChatData)


def as_questions(rows: Data, numbers: Sequence[int]) -> tuple[Data, Any]:
    """Rows whose last answers are wanted: a view of the data set that holds them alone, and their batch.

    Each is asked on its own; of a row in which several conversations share a video, the first is.

    Args:
        rows: the data set.
        numbers: of its rows.

    Raises:
        VideoReadError: the video of a row cannot be read.
    """
    heads = [rows.text.groups[number][0] for number in numbers]
    asked = copy.copy(rows)
    asked.text = ChatRows(
        [rows.text.conversations[head] for head in heads],
        replace(rows.text.format, questions_at_once=1),
        counts=[rows.text.counts[head] for head in heads],
        asked=True,
    )
    picks = [Pick(row=number, position=number, normalizer=1.0) for number in numbers]
    samples = [rows[pick]._replace(pick=pick._replace(row=place)) for place, pick in enumerate(picks)]
    return asked, asked.batch(samples)
