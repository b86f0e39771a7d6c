"""How often a model finds the right one of several answers the most likely."""

import torch
from torch import Tensor
from torchmetrics import Metric

from common.chat.choice_rows import ChoiceRows
from common.chat.loss import per_sample, token_losses
from common.chat.rows import ChatRows, ChatText, kind_of
from common.chat.scores import AnswerScores
from common.metrics.interval import Estimate, macro, wilson


class ChoiceScores:
    """Likelihood of every option, and accuracy by kind of question.

    Likelihoods are kept by the number of the option, so that the options of a question may come in any order, in any
    batch and on any rank.
    """

    def __init__(self, rows: ChoiceRows, *, device: torch.device) -> None:
        self.rows = rows
        self.tokens = torch.tensor([int(encoded.learned.sum()) for encoded in rows.encoded])
        self.table = OptionTable(len(rows.options)).to(device)

    def update(self, logits: Tensor, text: ChatText) -> None:
        """Adds a micro-batch, from the logits of its targets, float32 (K, V)."""
        likelihoods = -token_losses(logits, text.targets)
        self.table.update(per_sample(likelihoods, text.target_rows, len(text.conversations)), text.conversations)

    def likelihoods(self) -> Tensor:
        """Log-probability of each option, or its mean over the tokens where the rows say so: float32 (options,).

        An option that has not been seen has nan.
        """
        summed: Tensor = self.table.compute().cpu()
        return summed / self.tokens if self.rows.mean else summed

    def compute(self) -> tuple[Tensor, dict[str, Estimate]]:
        """Mean loss of a token of the right answers, and accuracy by kind, `overall` and `macro`.

        `overall` counts every question alike, `macro` every kind. A question counts when all its options were seen. It
        is right when the right option is more likely than any other: a tie is a miss, in whatever order they stand.
        """
        likelihoods = self.likelihoods()
        losses = -likelihoods * self.tokens if self.rows.mean else -likelihoods
        hits: dict[str, list[bool]] = {}
        rights = []
        for numbers in self.rows.questions:
            options = likelihoods[list(numbers)]
            if options.isnan().any():
                continue
            right = next(place for place, number in enumerate(numbers) if self.rows.options[number].right)
            others = torch.cat([options[:right], options[right + 1 :]])
            hits.setdefault(kind_of(self.rows.options[numbers[0]]), []).append(bool(options[right] > others.max()))
            rights.append(numbers[right])
        kinds = {kind: wilson(sum(hits[kind]), len(hits[kind])) for kind in self.rows.kinds if kind in hits}
        totals = {"overall": wilson(sum(map(sum, hits.values())), len(rights)), "macro": macro(list(kinds.values()))}
        return losses[rights].sum() / self.tokens[rights].sum(), kinds | totals


class OptionTable(Metric):
    """A number for each option, by its place; each is given once, on one of the ranks."""

    total: Tensor
    seen: Tensor
    full_state_update = False

    def __init__(self, options: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(options), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(options), dist_reduce_fx="sum")

    def update(self, values: Tensor, numbers: Tensor) -> None:
        """Takes values float32 (S,) of the options `numbers` int64 (S,)."""
        self.total[numbers] = values
        self.seen[numbers] = 1.0

    def compute(self) -> Tensor:
        """float32 (options,); nan where none was given. What two ranks give alike counts once."""
        return self.total / self.seen


def new_scores(rows: ChatRows, *, device: torch.device) -> AnswerScores | ChoiceScores:
    """The scores that suit the rows."""
    return ChoiceScores(rows, device=device) if isinstance(rows, ChoiceRows) else AnswerScores(rows, device=device)
