"""Judge-free scores against values worked out by hand."""

import pytest

from common.metrics.interval import wilson
from common.qa.scores import common_subsequence, contains, exact, mean, rouge_l, score_all, token_f1, words


def test_normalisation_is_that_of_squad() -> None:
    assert words("The well-known   Dog's, a BONE!") == ["wellknown", "dogs", "bone"]


@pytest.mark.parametrize(
    ("prediction", "reference", "same", "holds"),
    [
        ("A dog.", "the dog", True, True),
        ("It is a red dog in the park", "red dog", False, True),
        ("a hotdog", "dog", False, False),  # whole words
        ("red big dog", "red dog", False, False),  # in one piece
        ("dog", "a dog runs", False, False),
        ("anything", "the", False, False),
        ("", "dog", False, False),
    ],
)
def test_exact_and_contains(prediction: str, reference: str, same: bool, holds: bool) -> None:
    assert exact(prediction, reference) is same
    assert contains(prediction, reference) is holds


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        ("a red dog runs", "the dog", 2 * (1 / 3) * 1 / (1 / 3 + 1)),  # precision 1/3, recall 1
        ("dog dog", "dog", 2 / 3),  # a word counts as often as it is there
        ("cat", "dog", 0),
        ("the", "a", 1),  # both without words
        ("", "dog", 0),
    ],
)
def test_token_f1(prediction: str, reference: str, f1: float) -> None:
    assert token_f1(prediction, reference) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        # Lin 2004: "police killed the gunman" and two candidates with the same words in another order.
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        ("a b c", "a c d e", 2 * 2 / 7),  # LCS 2: precision 2/3, recall 2/4
        ("same words", "Same, words!", 1),
        ("", "x", 0),
        ("...", "x", 0),
    ],
)
def test_rouge_l(prediction: str, reference: str, score: float) -> None:
    assert rouge_l(prediction, reference) == pytest.approx(score)


def test_longest_common_subsequence_agrees_with_trying_all() -> None:
    def slow(first: str, second: str) -> int:
        if not first or not second:
            return 0
        if first[0] == second[0]:
            return 1 + slow(first[1:], second[1:])
        return max(slow(first[1:], second), slow(first, second[1:]))

    for first, second in [("abcbdab", "bdcaba"), ("aab", "azb"), ("xyz", "abc"), ("abab", "baba"), ("a", "aaaa")]:
        assert common_subsequence(first, second) == slow(first, second)


def test_a_mean_has_its_interval() -> None:
    estimate = mean([1.0, 2.0, 3.0, 4.0], top=5)
    half = 1.959963984540054 * (5 / 3 / 4) ** 0.5
    assert estimate == pytest.approx((2.5, 2.5 - half, 2.5 + half, 4))
    assert mean([3.0], top=5) == (3, 0, 5, 1)
    assert mean([5.0, 5.0, 4.9], top=5).high == 5
    with pytest.raises(ValueError, match="no values"):
        mean([], top=5)


def test_proportions_have_wilsons_interval() -> None:
    scores = score_all([("dog", "the dog"), ("a cat", "dog"), ("big dog", "dog")])
    assert scores.exact == wilson(1, 3)
    assert scores.contains == wilson(2, 3)
    assert scores.f1.value == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert scores.rouge_l.value == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
