"""Options of questions as tokens: those of one question share a sequence up to their answers."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from common.chat.choices import Choices, Option
from common.chat.rows import ChatFormat, ChatRows, answer_start, kind_of
from common.data.conversations import Conversation
from common.text.mask import Encoded


def chat_rows(
    conversations: Sequence[Conversation],
    chat_format: ChatFormat,
    *,
    choices: Choices | None,
    counts: Sequence[int] | None = None,
    asked: bool = False,
) -> ChatRows:
    """Conversations as tokens, or the options that `choices` read.

    Args:
        conversations: at least one.
        chat_format: how they become tokens.
        choices: what they were read by; null: they are no options.
        counts: see `ChatRows`.
        asked: the last answers are wanted, not given.

    Raises:
        ValueError: answers are wanted to questions with options, which are chosen from and not answered.
    """
    if choices is None:
        return ChatRows(conversations, chat_format, counts=counts, asked=asked)
    if asked:
        raise ValueError("choices are scored by `evaluate`, as a view of data.test; leave them out of data.predict")
    return ChoiceRows(conversations, chat_format, mean=choices.scored == "mean", counts=counts)


class ChoiceRows(ChatRows):
    """Tokenised options. Those of one question share a sequence in which all before the answer stands once.

    How many do at most is the format's `questions_at_once`; with 1 each has its own, and the numbers are the same.
    """

    def __init__(
        self,
        options: Sequence[Conversation],
        chat_format: ChatFormat,
        *,
        mean: bool,
        counts: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            options: of each question one after the other.
            chat_format: how they become tokens.
            mean: whether an option's likelihood is divided by its number of tokens.
            counts: see `ChatRows`.

        Raises:
            ValueError: as `ChatRows` does, or the tokenizer does not tell two options of a question apart.
        """
        self.mean = mean
        self.options = [row for row in options if isinstance(row, Option)]
        assert len(self.options) == len(options), "conversations that are not options"
        numbered = groupby(range(len(self.options)), key=lambda number: self.options[number].question)
        self.questions = [tuple(numbers) for _, numbers in numbered]
        assert all(sum(self.options[number].right for number in each) == 1 for each in self.questions)
        super().__init__(options, chat_format, counts=counts)
        for numbers in self.questions:
            answers = {self.encoded[number].ids[self.prompt_length(number) :].tobytes() for number in numbers}
            if len(answers) < len(numbers):
                raise ValueError(
                    f"{self.options[numbers[0]].where}: to the tokenizer {len(numbers)} options are {len(answers)} "
                    "different texts; it lacks words or letters, choose another or another choices.scored"
                )

    def chance(self) -> dict[str, float]:
        """Accuracy of guessing among the options of each question, by kind."""
        shares: dict[str, list[float]] = {}
        for numbers in self.questions:
            shares.setdefault(kind_of(self.options[numbers[0]]), []).append(1 / len(numbers))
        return {kind: float(np.mean(each)) for kind, each in shares.items()}

    def shared(self, number: int) -> int:
        """Tokens of an option that the others of its row have too, less the one that predicts its answer."""
        return int(self._shared[number])

    def _refuse_sharing(self) -> None:
        """Options of one question have the video at one place, wherever that is."""

    def _encode(self, asked: bool) -> list[Encoded]:
        """Only the last answer of a conversation is scored, not those that lead up to it."""
        encoded = super()._encode(asked)
        for each in encoded:
            each.learned[: answer_start(each)] = False
        return encoded

    def _grouped(self) -> list[tuple[int, ...]]:
        most = self.format.questions_at_once
        groups = [numbers[first : first + most] for numbers in self.questions for first in range(0, len(numbers), most)]
        self._shared = np.zeros(len(self.options), dtype=np.int64)
        for group in groups:
            self._shared[list(group)] = _common([self.encoded[number] for number in group])
        return groups


def _common(options: Sequence[Encoded]) -> int:
    """Tokens that options begin with alike, less the one that predicts the first token of their answers."""
    first = options[0]
    length = answer_start(first) - 1
    for other in options[1:]:
        length = min(length, answer_start(other) - 1)
        differing = np.flatnonzero(first.ids[:length] != other.ids[:length])
        length = int(differing[0]) if len(differing) else length
    return length
