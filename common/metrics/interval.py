"""Confidence intervals of proportions."""

import math
from typing import NamedTuple

Z_95 = 1.959963984540054


class Estimate(NamedTuple):
    """A proportion with its 95 % interval and the number of cases it rests on."""

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
