"""Nearest neighbours against a loop; the linear probe against the condition of its minimum."""

import math

import pytest
import torch
from torch.nn import functional

from projects.genhancer.benchmarks.classifiers import fit, linear_probe, nearest_neighbours, predict


def blobs(count: int, seed: int, *, spread: float = 0.4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [-1.0, -1.0, 1.0]])
    return centres[labels] + spread * torch.randn(count, 3, generator=generator), labels


def test_votes_are_weighted_by_nearness() -> None:
    features, labels = blobs(40, seed=0, spread=1.5)
    asked, _ = blobs(15, seed=1, spread=1.5)
    found = nearest_neighbours(features, labels, asked, classes=3, neighbours=7)
    for row, label in zip(asked, found.tolist(), strict=True):
        cosines = [float(functional.cosine_similarity(row, each, dim=0)) for each in features]
        near = sorted(range(40), key=lambda n: -cosines[n])[:7]
        votes = [sum(math.exp(cosines[n] / 0.07) for n in near if labels[n] == c) for c in range(3)]
        assert label == votes.index(max(votes))


def test_fewer_examples_than_neighbours_all_vote() -> None:
    found = nearest_neighbours(torch.eye(2), torch.tensor([0, 1]), torch.tensor([[3.0, 1.0]]), classes=2, neighbours=20)
    assert found.tolist() == [0]


def test_the_gradient_is_zero_at_the_minimum() -> None:
    features, labels = blobs(60, seed=2, spread=1.5)
    weights, biases = fit(features.double(), labels, classes=3, penalty=0.01)
    shares = (features.double() @ weights.T + biases).softmax(dim=1)
    excess = (shares - functional.one_hot(labels, 3)) / 60  # derivative of the mean cross-entropy by the logits
    torch.testing.assert_close(
        excess.T @ features.double() + 0.01 * weights, torch.zeros(3, 3).double(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(excess.sum(dim=0), torch.zeros(3).double(), atol=1e-6, rtol=0)


def test_separable_labels_are_learned_whatever_the_scale_and_constants() -> None:
    (features, labels), (asked, truth) = blobs(90, seed=3), blobs(30, seed=4)
    features[:, 1] *= 1000
    asked[:, 1] *= 1000
    found, penalty = linear_probe(features, labels, asked, classes=3, penalties=[1e-3, 1e-1])
    assert found.tolist() == truth.tolist()
    assert penalty in (1e-3, 1e-1)


@pytest.mark.parametrize("penalties", [[1e4, 1e-2], [1e-2, 1e4]])
def test_the_penalty_that_does_better_on_the_held_out_is_chosen(penalties: list[float]) -> None:
    """Under 1e4 hardly a weight is left, and rare labels are lost to the most frequent."""
    features, labels = blobs(60, seed=6)
    kept = (labels > 0) | (torch.arange(60) < 30)
    features, labels = features[kept], labels[kept]
    results = [linear_probe(features, labels, asked, classes=3, penalties=penalties) for asked in (features, -features)]
    assert [penalty for _, penalty in results] == [1e-2, 1e-2]  # whatever is asked
    assert float((results[0][0] == labels).double().mean()) > 0.95


def test_gradients_may_be_off_around_it() -> None:
    features, labels = blobs(30, seed=7)
    with torch.no_grad():
        weights, biases = fit(features.double(), labels, classes=3, penalty=0.01)
    assert float((predict(features.double(), weights, biases) == labels).double().mean()) > 0.95
    with pytest.raises(RuntimeError):
        fit(features, labels, classes=3, penalty=0.01)  # float32 is not what it promises
