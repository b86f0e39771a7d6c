"""The task asks each model once, and says what is wrong before it does."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from projects.genhancer.benchmarks.outcome import BenchmarkError
from projects.genhancer.benchmarks.pairs import ShapesPairs
from projects.genhancer.benchmarks.shapes_zero_shot import ShapesZeroShot
from projects.genhancer.benchmarks.table import full_float32, tower_benchmarks
from tests.projects.genhancer.benchmarks.towers import TINY, write_model


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
