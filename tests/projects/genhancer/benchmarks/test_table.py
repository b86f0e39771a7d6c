"""Before and after on the same cases: the table, the files, and what is made only once."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from common.metrics.interval import wilson
from common.metrics.paired import compare_paired
from projects.genhancer.benchmarks.outcome import BenchmarkError, Measure, Outcome, write_csv
from projects.genhancer.benchmarks.pairs import ShapesPairs
from projects.genhancer.benchmarks.shapes_zero_shot import ShapesZeroShot
from projects.genhancer.benchmarks.table import compared, full_float32, tower_benchmarks, write
from tests.projects.genhancer.benchmarks.towers import TINY, write_model

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


def test_the_task_asks_models_once(world: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", "siglip")
    arguments = {
        "models": {"before": str(TINY), "after": str(other)},
        "benchmarks": {
            "pairs": ShapesPairs(root=str(world), split="test"),
            "guard": ShapesZeroShot(split="test", count=60),
            "absent": ShapesPairs(root=str(tmp_path), split="test"),
        },
        "processor": None,
        "batch": 16,
        "workers": 2,
        "device": "cpu",
        "folder": str(tmp_path / "out"),
    }
    with pytest.raises(BenchmarkError, match=r"test\.jsonl is not there"):
        tower_benchmarks(**arguments, only=None)
    figures = tower_benchmarks(**arguments, only=["pairs", "guard"])
    assert figures["before/guard/colour"] > 0.9 > figures["after/guard/colour"]
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert (tmp_path / "out" / "predictions" / "pairs.after.csv") in made
    assert tower_benchmarks(**arguments, only=["pairs", "guard"]) == figures
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == made
    with pytest.raises(ValueError, match="made from something else"):
        tower_benchmarks(**arguments, only=["pairs"])
    (other / "preprocessor_config.json").write_text(
        (other / "preprocessor_config.json").read_text().replace('"resample": 3', '"resample": 2')
    )
    with pytest.raises(ValueError, match="made from something else"):
        tower_benchmarks(**arguments, only=["pairs", "guard"])


def test_the_same_model_twice_changes_nothing(tmp_path: Path) -> None:
    tower_benchmarks(
        models={"before": str(TINY), "after": str(TINY)},
        benchmarks={"guard": ShapesZeroShot(split="val", count=40)},
        processor=None,
        only=None,
        batch=16,
        workers=1,
        device="cpu",
        folder=str(tmp_path / "out"),
    )
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert {(row["gained"], row["lost"], row["p"]) for row in rows} == {("0", "0", "1.0")}


def test_a_folder_of_weights_alone_is_read_as_the_model_it_was_made_from(tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / name, alone)
    arguments = {
        "models": {"before": str(TINY), "after": str(alone)},
        "benchmarks": {"guard": ShapesZeroShot(split="val", count=40)},
        "only": None,
        "batch": 16,
        "workers": 1,
        "device": "cpu",
        "folder": str(tmp_path / "out"),
    }
    with pytest.raises(ValueError, match=r"alone has no tokenizer .*set task\.processor"):
        tower_benchmarks(**arguments, processor=None)
    figures = tower_benchmarks(**arguments, processor=str(TINY))
    assert figures["after/guard/place"] == figures["before/guard/place"] > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": {}}, r"task\.models names no model"),
        ({"models": {"a/b": "x"}}, r"task\.models\.a/b"),
        ({"only": ["mvp"]}, r"task\.only names mvp; there is guard"),
        ({"only": []}, r"task\.only names no benchmark"),
        ({"models": {"before": "/nowhere"}}, "/nowhere: no such folder"),
    ],
)
def test_wrong_settings_are_told(change: dict, message: str, tmp_path: Path) -> None:
    arguments = {
        "models": {"before": str(TINY)},
        "benchmarks": {"guard": ShapesZeroShot(split="val", count=4)},
        "processor": None,
        "only": None,
        "batch": 4,
        "workers": 1,
        "device": "cpu",
        "folder": str(tmp_path / "out"),
    }
    with pytest.raises(ValueError, match=message):
        tower_benchmarks(**(arguments | change))


def test_precision_comes_back() -> None:
    before = torch.backends.cudnn.allow_tf32
    with full_float32():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_csv_keeps_commas_and_quotes(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"text": 'a "red", ring', "n": 1}])
    assert list(csv.DictReader((tmp_path / "a.csv").open())) == [{"text": 'a "red", ring', "n": "1"}]
