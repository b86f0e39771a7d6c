"""What is learned on frozen features: nothing (nearest neighbours), or one linear map (logistic regression)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.07  # of the votes (arXiv:1805.01978, section 3.4)
HELD_OUT = 5  # one of so many examples chooses the penalty
STEPS = 300
CHUNK = 1024


def nearest_neighbours(features: Tensor, labels: Tensor, asked: Tensor, *, classes: int, neighbours: int) -> Tensor:
    """Labels by weighted votes of the nearest in cosine, exp(cosine / 0.07) each (arXiv:1805.01978).

    Args:
        features: float (N, D), to learn from.
        labels: int64 (N,).
        asked: float (M, D).
        classes: number of labels.
        neighbours: votes for each; all where there are fewer.

    Returns:
        int64 (M,).
    """
    known, found = functional.normalize(features, dim=-1), []
    for part in functional.normalize(asked, dim=-1).split(CHUNK):
        near = (part @ known.T).topk(min(neighbours, len(known)), dim=1)
        votes = torch.zeros(len(part), classes, dtype=near.values.dtype)
        # Less the greatest: the same winner, without overflow.
        weights = ((near.values - near.values[:, :1]) / TEMPERATURE).exp()
        found.append(votes.scatter_add_(1, labels[near.indices], weights).argmax(dim=1))
    return torch.cat(found)


def linear_probe(
    features: Tensor, labels: Tensor, asked: Tensor, *, classes: int, penalties: Sequence[float]
) -> tuple[Tensor, float]:
    """Labels by logistic regression on standardised features; the penalty is chosen on a fifth that is held out.

    Args:
        features: float (N, D), to learn from.
        labels: int64 (N,).
        asked: float (M, D).
        classes: number of labels.
        penalties: candidates, of half the squared weights beside the mean cross-entropy.

    Returns:
        int64 (M,), and the penalty. The choice sees nothing of `asked`; the final fit uses all of `features`.
    """
    mean, spread = features.double().mean(dim=0), features.double().std(dim=0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)  # a constant feature stays 0
    known, asked = (features.double() - mean) / spread, (asked.double() - mean) / spread
    chosen, held = penalties[0], _held_out(labels)
    if len(penalties) > 1 and held.any():
        scores = [
            _share(predict(known[held], *fit(known[~held], labels[~held], classes=classes, penalty=p)), labels[held])
            for p in penalties
        ]
        chosen = penalties[scores.index(max(scores))]
    return predict(asked, *fit(known, labels, classes=classes, penalty=chosen)), chosen


def fit(features: Tensor, labels: Tensor, *, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """The minimum of mean cross-entropy + penalty / 2 |weights|^2, by L-BFGS; the problem is convex.

    Args:
        features: float64 (N, D).
        labels: int64 (N,).
        classes: number of labels.
        penalty: > 0; the biases bear none.

    Returns:
        Weights float64 (classes, D) and biases (classes,).
    """
    with torch.enable_grad():
        weights = torch.zeros(classes, features.shape[1], dtype=torch.float64, requires_grad=True)
        biases = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [weights, biases],
            max_iter=STEPS,
            tolerance_grad=1e-7,
            tolerance_change=1e-12,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            logits = features @ weights.T + biases
            loss = functional.cross_entropy(logits, labels) + penalty / 2 * weights.square().sum()
            torch.autograd.backward(loss)
            return loss

        optimiser.step(closure)
    return weights.detach(), biases.detach()


def predict(features: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """The label with the greatest logit, int64 (N,)."""
    return (features @ weights.T + biases).argmax(dim=1)


def _held_out(labels: Tensor) -> Tensor:
    """Every fifth example of each label, bool (N,); none of a label that has fewer than two."""
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        places = (labels == label).nonzero().flatten()
        held[places[1::HELD_OUT]] = True
    return held


def _share(predicted: Tensor, labels: Tensor) -> float:
    return float((predicted == labels).double().mean())
