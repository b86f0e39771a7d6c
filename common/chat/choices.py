"""Questions with options, put to a language model that answers: each option is the answer of a conversation of its own.

What a model would choose is the option that it finds most likely after the question. Three conventions are in use: the
sum of the log-probabilities of the answer's tokens, their mean, which does not favour short answers, and the letter of
an option that is listed in the question.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from common.chat.rows import ChatFormat, ChatRows, answer_start, kind_of
from common.data.choices import LETTERS, ChoiceQuestion, Files, load_choices
from common.data.conversations import Conversation
from common.text.mask import Encoded
from common.text.prompt import VIDEO, Turn

Scored = Literal["sum", "mean", "letter"]
PLACE = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class Option(Conversation):
    """A question answered by one of its options.

    Attributes:
        question: number of the question in its file.
        right: whether it is the right answer.
    """

    question: int = 0
    right: bool = False


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How questions with options are read, written and scored.

    Attributes:
        scored: "sum" or "mean" of the log-probabilities of an option and the end token, the options not listed in the
            question; "letter": the sum over an option's letter and the end token, the options listed.
        listed: the question for "letter", of {question} and {options}.
        line: each of {options}, of {letter} and {option}.
        reply: the answer for "letter", of {letter} and {option}.
        system: instruction in place of the template's.
        folders: see `common.data.choices.Files`, as for the next two.
        kind: field that accuracy is told by.
        cut: whether the videos are cut to the parts that are asked about.
    """

    scored: Scored = "sum"
    listed: str = "{question}\n{options}"
    line: str = "{letter}. {option}"
    reply: str = "{letter}"
    system: str | None = None
    folders: Mapping[str, str] | None = None
    kind: str = "task_type"
    cut: bool = False

    def __post_init__(self) -> None:
        if self.scored not in ("sum", "mean", "letter"):
            raise ValueError(f"choices.scored={self.scored}; there is sum, mean, letter")
        _check_places("listed", self.listed, needed=("question", "options"), known=("question", "options"))
        _check_places("line", self.line, needed=("letter", "option"), known=("letter", "option"))
        _check_places("reply", self.reply, needed=("letter",), known=("letter", "option"))

    def load(self, path: Path) -> list[Conversation]:
        """The options of every question of a file or folder, question after question.

        Raises:
            DataError: see `common.data.choices.load_choices`.
        """
        files = Files(folders=self.folders, kind=self.kind, cut=self.cut)
        questions = load_choices(path, files=files)
        return [option for number, each in enumerate(questions) for option in self.options(each, number)]

    def options(self, question: ChoiceQuestion, number: int) -> list[Option]:
        """Conversations that answer the question of that number with each of its options."""
        asked = question.asked
        *before, last = asked.turns
        user = self._listed(last.user, question.choices) if self.scored == "letter" else last.user
        given = {field.name: getattr(asked, field.name) for field in fields(asked)}
        given["system"] = asked.system if self.system is None else self.system
        options = []
        for place, answer in enumerate(self._answers(question.choices)):
            given["turns"] = (*before, Turn(user, answer))
            options.append(Option(**given, question=number, right=place == question.right))
        return options

    def _answers(self, choices: Sequence[str]) -> list[str]:
        if self.scored != "letter":
            return list(choices)
        return [
            _fill(self.reply, letter=letter, option=option) for letter, option in zip(LETTERS, choices, strict=False)
        ]

    def _listed(self, user: str, choices: Sequence[str]) -> str:
        """The question with its options, the video before it where it stood anywhere in it."""
        pairs = zip(LETTERS, choices, strict=False)
        lines = "\n".join(_fill(self.line, letter=letter, option=option) for letter, option in pairs)
        question = " ".join(part.strip() for part in user.split(VIDEO) if part.strip())
        return (f"{VIDEO}\n" if VIDEO in user else "") + _fill(self.listed, question=question, options=lines)


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


def _fill(pattern: str, **texts: str) -> str:
    """A pattern with its places filled; braces inside the texts are left alone."""
    return PLACE.sub(lambda match: texts[match[1]], pattern)


def _check_places(name: str, pattern: str, *, needed: Sequence[str], known: Sequence[str]) -> None:
    places = PLACE.findall(pattern)
    if not set(needed) <= set(places) <= set(known):
        wanted = " and ".join(f"{{{each}}}" for each in needed)
        raise ValueError(f"choices.{name}={pattern!r}: needs {wanted}, and may hold {', '.join(known)} alone")
