"""Validation and test of a model that answers: which rows, which scores, what is logged and reported."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from common.chat.choice_scores import ChoiceScores, new_scores
from common.chat.rows import ChatRows, ChatText
from common.chat.scores import AnswerScores
from common.metrics.interval import Estimate


class Rows(Protocol):
    """A data set whose text is that of conversations."""

    text: ChatRows


class Scoring:
    """The scores of the running epoch, and the report of the last test."""

    def __init__(self) -> None:
        self._views: dict[str, AnswerScores | ChoiceScores] = {}
        self._chance: dict[str, float] = {}
        self._report: dict[str, dict[str, Estimate]] = {}

    def start(self, splits: Mapping[str, Rows], device: torch.device) -> None:
        """Begins an epoch over the rows of each view."""
        self._views = {view: new_scores(rows.text, device=device) for view, rows in splits.items()}
        self._chance = next(iter(splits.values())).text.chance()

    def update(self, logits: Tensor, text: ChatText, *, view: int = 0) -> None:
        """Adds a micro-batch of the view with that number, from the logits of its targets, float32 (K, V)."""
        list(self._views.values())[view].update(logits, text)

    def finish(self) -> dict[str, Any]:
        """Ends the epoch: `loss` and `exact/<kind>` of the first view, for the log."""
        computed = {view: scores.compute() for view, scores in self._views.items()}
        self._report = {view: estimates for view, (_, estimates) in computed.items()}
        loss, estimates = next(iter(computed.values()))
        return {"loss": loss} | {f"exact/{kind}": estimate.value for kind, estimate in estimates.items()}

    def report(self) -> Mapping[str, Mapping[str, Estimate | float]]:
        """Accuracy by view and kind of the last epoch, and what guessing would reach."""
        table: dict[str, Mapping[str, Estimate | float]] = dict(self._report)
        if self._chance:
            table["chance"] = self._chance | {"macro": sum(self._chance.values()) / len(self._chance)}
        return table
