"""Paired comparison: published examples, the exact test by enumeration, coverage of the interval."""

import itertools

import pytest
import torch

from common.metrics.interval import wilson
from common.metrics.paired import compare_paired, mcnemar, newcombe


def test_the_interval_of_a_published_table() -> None:
    # Newcombe 1998, table III: 36 both, 12 and 2 discordant, none neither; method 10.
    found = newcombe(both=36, lost=2, gained=12, neither=0)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    other_way = newcombe(both=36, lost=12, gained=2, neither=0)
    assert (other_way.low, other_way.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 1), (1, 5), (3, 3), (9, 2), (0, 6)])
def test_the_test_counts_the_tosses_that_are_as_uneven(gained: int, lost: int) -> None:
    tosses = list(itertools.product((0, 1), repeat=gained + lost))
    uneven = abs(gained - lost)
    as_uneven = sum(abs(2 * sum(toss) - len(toss)) >= uneven for toss in tosses)
    assert mcnemar(gained, lost) == pytest.approx(as_uneven / len(tosses))


def test_cases_are_paired_one_by_one() -> None:
    before = [True, True, False, False, True, False]
    after = [True, False, True, True, True, False]
    found = compare_paired(before, after)
    assert (found.gained, found.lost) == (2, 1)
    assert found.before == wilson(3, 6)
    assert found.after == wilson(4, 6)
    assert found.change.value == pytest.approx(1 / 6)
    assert found.change.low < found.change.value < found.change.high
    assert found.p == pytest.approx(1.0)


def test_no_change_has_a_width_and_no_significance() -> None:
    found = compare_paired([True, False] * 50, [True, False] * 50)
    assert found.p == 1
    assert found.change.value == 0
    assert found.change.low < 0 < found.change.high


def test_it_holds_the_truth_about_nineteen_times_in_twenty() -> None:
    draws = torch.rand(1500, 60, generator=torch.Generator().manual_seed(0))
    held = 0
    for row in draws:  # both .5, lost .1, gained .25, neither .15: the difference is .15
        both, lost, gained = int((row < 0.5).sum()), int(((row >= 0.5) & (row < 0.6)).sum()), int((row >= 0.75).sum())
        found = newcombe(both=both, lost=lost, gained=gained, neither=60 - both - lost - gained)
        held += found.low <= 0.15 <= found.high
    assert 0.93 < held / len(draws) < 0.98


def test_other_cases_and_none_are_refused() -> None:
    with pytest.raises(ValueError, match="2 cases before and 1 after"):
        compare_paired([True, False], [True])
    with pytest.raises(ValueError, match="no cases"):
        compare_paired([], [])
