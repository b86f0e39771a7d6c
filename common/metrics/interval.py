"""Confidence intervals of proportions and of means."""

import math
from typing import NamedTuple

Z_95 = 1.959963984540054


class Estimate(NamedTuple):
    """A proportion or a mean with its 95 % interval and the number of cases it rests on.

    `low` and `high` are nan where there is no interval: the mean of one case.
    """

    value: float
    low: float
    high: float
    cases: int


def wilson(successes: int, count: int) -> Estimate:
    """Wilson's score interval (Wilson 1927), which also holds near 0 and 1.

    Raises:
        ValueError: no cases.
    """
    if count < 1:
        raise ValueError("a proportion of no cases")
    share, z2 = successes / count, Z_95 * Z_95
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), count)


def macro(estimates: list[Estimate]) -> Estimate:
    """Mean of proportions with a normal interval from their binomial variances.

    Raises:
        ValueError: no proportions.
    """
    if not estimates:
        raise ValueError("a mean of no proportions")
    value = sum(each.value for each in estimates) / len(estimates)
    variance = sum(each.value * (1 - each.value) / each.cases for each in estimates) / len(estimates) ** 2
    half = Z_95 * math.sqrt(variance)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), sum(each.cases for each in estimates))


def mean(total: float, squares: float, count: int) -> Estimate:
    """Mean of independent cases with the normal interval of its standard error, s / sqrt(n) (s with n - 1).

    Rows that share something, such as two instructions of one history, are not quite independent: their interval is
    then a little too narrow.

    Args:
        total: sum of the values.
        squares: sum of their squares.
        count: number of cases.

    Raises:
        ValueError: no cases.
    """
    if count < 1:
        raise ValueError("a mean of no cases")
    value = total / count
    if count == 1:
        return Estimate(value, math.nan, math.nan, 1)
    variance = max(0.0, squares - count * value * value) / (count - 1)  # rounding may leave -1e-12 of equal cases
    half = Z_95 * math.sqrt(variance / count)
    return Estimate(value, value - half, value + half, count)
