"""Two models on the same cases: the difference of their shares, and whether it may be chance."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from common.metrics.interval import Estimate, wilson


class Paired(NamedTuple):
    """What changed between two models on the same cases.

    Attributes:
        before: share of cases that the first has right, with Wilson's interval.
        after: of the second.
        change: after - before, with Newcombe's interval for paired proportions.
        gained: cases that only the second has right.
        lost: cases that only the first has right.
        p: two-sided p-value of McNemar's exact test; 1 where nothing changed.
    """

    before: Estimate
    after: Estimate
    change: Estimate
    gained: int
    lost: int
    p: float


def compare_paired(before: Sequence[bool], after: Sequence[bool]) -> Paired:
    """Compares two models case by case.

    Args:
        before: whether the first model has each case right.
        after: the same of the second, in the same order.

    Raises:
        ValueError: no cases, or different numbers of them.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} cases before and {len(after)} after; pairs need the same cases")
    pairs = list(zip(before, after, strict=True))
    gained = sum(b and not a for a, b in pairs)
    lost = sum(a and not b for a, b in pairs)
    both = sum(a and b for a, b in pairs)
    change = newcombe(both=both, lost=lost, gained=gained, neither=len(pairs) - both - lost - gained)
    return Paired(
        wilson(both + lost, len(pairs)), wilson(both + gained, len(pairs)), change, gained, lost, mcnemar(gained, lost)
    )


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's test, exact: the cases that changed are fair coin tosses if nothing did.

    Args:
        gained: cases that only the second model has right.
        lost: cases that only the first has right.
    """
    tosses = gained + lost
    tail = sum(math.comb(tosses, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << tosses))


def newcombe(*, both: int, lost: int, gained: int, neither: int) -> Estimate:
    """Difference of two paired proportions, second less first, with a 95 % score interval.

    Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10: Wilson's limits of the two proportions, combined
    with their correlation phi, whose numerator is corrected for continuity. Unlike Wald's it has a width where no
    case changed.

    Args:
        both: cases that both models have right.
        lost: only the first.
        gained: only the second.
        neither: none of them.

    Raises:
        ValueError: no cases.
    """
    count = both + lost + gained + neither
    first, second = wilson(both + lost, count), wilson(both + gained, count)
    phi = _correlation(both, lost, gained, neither)
    difference = second.value - first.value
    below = _combined(second.value - second.low, first.high - first.value, phi)
    above = _combined(second.high - second.value, first.value - first.low, phi)
    return Estimate(difference, difference - below, difference + above, count)


def _combined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))  # rounding may leave -1e-18


def _correlation(both: int, lost: int, gained: int, neither: int) -> float:
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    if margins == 0:
        return 0.0
    product = float(both * neither - lost * gained)
    if product > 0:
        product = max(product - (both + lost + gained + neither) / 2, 0.0)
    return product / math.sqrt(margins)
