"""How well a model predicts the answers of a split: loss, and how many are right word for word."""

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from common.chat.loss import per_sample, token_losses
from common.chat.rows import ChatRows, ChatText
from common.metrics.accuracy import GroupedAccuracy
from common.metrics.interval import Estimate, macro


class AnswerScores:
    """Loss and exactness by kind of question; sums over ranks."""

    def __init__(self, rows: ChatRows, *, device: torch.device) -> None:
        self.kinds = rows.kinds
        self.accuracy = GroupedAccuracy(rows.kinds).to(device)
        self.loss = MeanMetric(nan_strategy="disable").to(device)  # a search for nan would wait for the device

    def update(self, logits: Tensor, text: ChatText) -> None:
        """Adds a micro-batch, from the logits of its targets, float32 (K, V).

        A greedy answer equals the truth exactly when every target is the most likely token after the true ones.
        """
        self.loss.update(token_losses(logits, text.targets))
        misses = (logits.argmax(dim=-1) != text.targets).float()
        wrong = per_sample(misses, text.target_rows, len(text.conversations))
        self.accuracy.update(wrong == 0, text.membership)

    def compute(self) -> tuple[Tensor, dict[str, Estimate]]:
        """Mean loss of a target token, and accuracy by kind and `macro`, their mean."""
        estimates = self.accuracy.compute()
        kinds = [estimates[kind] for kind in self.kinds if kind in estimates]
        return self.loss.compute(), estimates | {"macro": macro(kinds)}
