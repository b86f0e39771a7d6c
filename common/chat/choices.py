"""Questions with options, put to a language model that answers: each option is the answer of a conversation of its own.

What a model would choose is the option that it finds most likely after the question. Three conventions are in use: the
sum of the log-probabilities of the answer's tokens, their mean, which does not favour short answers, and the letter of
an option that is listed in the question.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from common.data.choices import LETTERS, ChoiceQuestion, Files, load_choices
from common.data.conversations import Conversation
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


def _fill(pattern: str, **texts: str) -> str:
    """A pattern with its places filled; braces inside the texts are left alone."""
    return PLACE.sub(lambda match: texts[match[1]], pattern)


def _check_places(name: str, pattern: str, *, needed: Sequence[str], known: Sequence[str]) -> None:
    places = PLACE.findall(pattern)
    if not set(needed) <= set(places) <= set(known):
        wanted = " and ".join(f"{{{each}}}" for each in needed)
        raise ValueError(f"choices.{name}={pattern!r}: needs {wanted}, and may hold {', '.join(known)} alone")
