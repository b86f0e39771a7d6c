"""Before and after on the same cases: rows, pairs, files."""

import csv
import json
from pathlib import Path

import pytest

from common.metrics.interval import wilson
from common.metrics.paired import compare_paired
from projects.genhancer.benchmarks.comparison import compared, write
from projects.genhancer.benchmarks.outcome import BenchmarkError, Measure, Outcome, write_csv

BEFORE = [True, True, False, False, True, False]
AFTER = [True, False, True, True, True, True]


def outcome(right: list[bool], *, groups: str = "aabbbb", ids: str = "uvwxyz") -> Outcome:
    answers = [{"id": name, "right": int(hit)} for name, hit in zip(ids, right, strict=True)]
    return Outcome({"pairs": Measure(list(ids), right, list(groups))}, answers, {"pairs": 0.25}, {"f.png": "damaged"})


def test_rows_are_paired_within_their_group() -> None:
    report = compared({"mmvp": {"before": outcome(BEFORE), "after": outcome(AFTER)}})
    assert list(report) == ["mmvp/pairs/all", "mmvp/pairs/a", "mmvp/pairs/b"]
    for row, part in (("all", slice(0, 6)), ("a", slice(0, 2)), ("b", slice(2, 6))):
        paired = compare_paired(BEFORE[part], AFTER[part])
        assert report[f"mmvp/pairs/{row}"] == {
            "before": paired.before,
            "after": paired.after,
            "after - before": paired.change,
            "p of after": paired.p,
        }


def test_every_later_model_is_compared_with_the_first() -> None:
    report = compared({"b": {"base": outcome(BEFORE), "one": outcome(AFTER), "two": outcome(BEFORE)}})
    row = report["b/pairs/all"]
    assert row["two"] == wilson(3, 6)
    assert row["two - base"].value == 0
    assert row["p of two"] == 1
    assert "base - base" not in row


def test_other_cases_are_no_pairs() -> None:
    with pytest.raises(BenchmarkError, match="mmvp: the models were asked different cases"):
        compared({"mmvp": {"before": outcome(BEFORE), "after": outcome(AFTER, ids="uvwxyy")}})


def test_the_files_say_counts_and_answers(tmp_path: Path) -> None:
    write(tmp_path, {"mmvp": {"before": outcome(BEFORE), "after": outcome(AFTER)}})
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [(row["row"], row["model"]) for row in rows][:2] == [
        ("mmvp/pairs/all", "before"),
        ("mmvp/pairs/all", "after"),
    ]
    after = rows[1]
    assert (after["cases"], after["right"], after["gained"], after["lost"]) == ("6", "5", "3", "1")
    assert float(after["share"]) == pytest.approx(5 / 6)
    assert float(after["change"]) == pytest.approx(1 / 3)
    assert float(after["change_low"]) < 1 / 3 < float(after["change_high"])
    answers = list(csv.DictReader((tmp_path / "predictions" / "mmvp.after.csv").open()))
    assert [row["right"] for row in answers] == ["1", "0", "1", "1", "1", "1"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["rows"]["mmvp/pairs/all"]["after"]["cases"] == 6
    assert report["chance"] == {"mmvp/pairs": 0.25}
    assert (tmp_path / "left_out.csv").read_text() == "benchmark,file,reason\nmmvp,f.png,damaged\n"


def test_a_csv_keeps_commas_and_quotes(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"text": 'a "red", ring', "n": 1}])
    assert list(csv.DictReader((tmp_path / "a.csv").open())) == [{"text": 'a "red", ring', "n": "1"}]
