"""Scores of an answer that need no judge, and means with their intervals."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from common.metrics.interval import Z_95, Estimate, wilson

PUNCTUATION = str.maketrans("", "", string.punctuation)


class Scores(NamedTuple):
    """Means over predictions; exact and contains are proportions."""

    exact: Estimate
    contains: Estimate
    f1: Estimate
    rouge_l: Estimate


def score_all(pairs: Sequence[tuple[str, str]]) -> Scores:
    """All scores of (prediction, reference) pairs.

    Raises:
        ValueError: no pairs.
    """

    def share(function: Callable[[str, str], bool]) -> Estimate:
        return wilson(sum(function(prediction, reference) for prediction, reference in pairs), len(pairs))

    def average(function: Callable[[str, str], float]) -> Estimate:
        return mean([function(prediction, reference) for prediction, reference in pairs], top=1.0)

    return Scores(share(exact), share(contains), average(token_f1), average(rouge_l))


def words(text: str) -> list[str]:
    """Words as SQuAD compares them (Rajpurkar et al. 2016): lower case, no punctuation, no articles."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split()


def exact(prediction: str, reference: str) -> bool:
    """Whether both are the same words."""
    return words(prediction) == words(reference)


def contains(prediction: str, reference: str) -> bool:
    """Whether the reference's words stand in the prediction, whole and in one piece; never of a reference without."""
    wanted, given = words(reference), words(prediction)
    starts = range(len(given) - len(wanted) + 1)
    return bool(wanted) and any(given[start : start + len(wanted)] == wanted for start in starts)


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the bags of words; without words, 1 if both have none."""
    given, wanted = words(prediction), words(reference)
    if not given or not wanted:
        return float(given == wanted)
    return _harmonic((Counter(given) & Counter(wanted)).total(), len(given), len(wanted))


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L (Lin 2004) with beta 1 over lower-case runs of letters and digits, without stemming; 0 without words."""
    given, wanted = (re.findall(r"[^\W_]+", text.lower()) for text in (prediction, reference))
    if not given or not wanted:
        return 0.0
    return _harmonic(common_subsequence(given, wanted), len(given), len(wanted))


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for left in first:
        diagonal = 0
        for place, right in enumerate(second, start=1):
            above = row[place]
            row[place] = diagonal + 1 if left == right else max(above, row[place - 1])
            diagonal = above
    return row[-1]


def mean(values: Sequence[float], *, top: float) -> Estimate:
    """Mean of values in 0..top with a normal 95 % interval; of one value the interval is the whole scale.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("a mean of no values")
    count = len(values)
    value = math.fsum(values) / count
    if count == 1:
        return Estimate(value, 0.0, top, count)
    variance = math.fsum((each - value) ** 2 for each in values) / (count - 1)
    half = Z_95 * math.sqrt(variance / count)
    return Estimate(value, max(0.0, value - half), min(top, value + half), count)


def _harmonic(shared: int, first: int, second: int) -> float:
    return 2 * shared / (first + second)
