"""Means with intervals, and how a table shows them."""

import json
import math

import pytest
import torch

from common.metrics.interval import Z_95, Estimate, mean
from common.metrics.table import as_json, show


def estimate(values: list[float]) -> Estimate:
    return mean(sum(values), sum(v * v for v in values), len(values))


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    found = estimate([1.0, 2.0, 3.0, 6.0])
    spread = math.sqrt((4 + 1 + 0 + 9) / 3)
    assert found.value == 3
    assert found.high - 3 == pytest.approx(Z_95 * spread / 2)
    assert 3 - found.low == pytest.approx(Z_95 * spread / 2)
    assert found.cases == 4


def test_it_holds_the_truth_nineteen_times_in_twenty() -> None:
    draws = torch.randn(2000, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 30
    held = [e.low <= 30 <= e.high for e in (estimate(row.tolist()) for row in draws)]
    assert 0.92 < sum(held) / len(held) < 0.965


def test_equal_cases_have_no_width_and_one_case_no_interval() -> None:
    assert estimate([0.1] * 7)[:3] == pytest.approx((0.1, 0.1, 0.1))
    one = estimate([4.0])
    assert one.value == 4
    assert math.isnan(one.low)
    with pytest.raises(ValueError, match="no cases"):
        mean(0.0, 0.0, 0)


def test_a_table_of_means(capsys: pytest.CaptureFixture[str]) -> None:
    report = {"real": {"psnr": estimate([29.0, 31.0]), "one": estimate([5.0])}, "lower": {"psnr": estimate([-1.0, 1])}}
    show(report, title="t")
    printed = capsys.readouterr().out
    assert "30.000 (28.04-31.96)" in printed
    assert "5.000 (1 case)" in printed
    assert "0.000 (-1.96 to 1.96)" in printed
    told = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert told["real"]["one"] == {"value": 5.0, "low": None, "high": None, "cases": 1}


def test_many_columns_become_lines(capsys: pytest.CaptureFixture[str]) -> None:
    report = {"real": {f"psnr/{n}": float(n) for n in range(12)}, "copy_last": {"psnr/3": 1.5}}
    show(report, title="t")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = [line for line in lines if "psnr/3 " in line]
    assert line.index("3.000") < line.index("1.500")
