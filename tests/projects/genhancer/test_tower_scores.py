"""Benchmarks in a run: asked of the tower that learns, at each validation and in a test."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.shapes_world.dataset import write
from projects.genhancer.benchmarks.outcome import BenchmarkError
from projects.genhancer.benchmarks.pairs import ShapesPairs
from projects.genhancer.benchmarks.shapes_zero_shot import ShapesZeroShot
from projects.genhancer.tower_scores import TowerScores
from tests.projects.genhancer.small_run import CLIP, configured, fit, make_data, make_module, trainer_of


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    sizes = {"train": 6, "val": 12, "test": 12}
    write(root=root, clips=sizes, edits=sizes, pairs=sizes, parts=["pairs"], workers=1)
    return root


def scores(root: Path) -> Any:
    val = {
        "pairs": partial(ShapesPairs, root=str(root), split="val"),
        "zero_shot": partial(ShapesZeroShot, split="val", count=20),
        "none": None,
    }
    return partial(TowerScores, preprocess=CLIP, batch=8, workers=1, val=val, test=val)


def test_a_second_stage_is_asked_at_each_validation(root: Path, tmp_path: Path) -> None:
    module = make_module(second=True, scores=scores(root))
    trainer = fit(module, make_data(), tmp_path)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found.keys() >= {"val/loss", "val/pairs", "val/pairs/mirror", "val/zero_shot/colour", "val/zero_shot/place"}
    asked = module.scores.ask("val", module.tower, device=module.device).numbers()
    assert {name.removeprefix("val/"): value for name, value in found.items() if name != "val/loss"} == pytest.approx(
        asked, abs=1e-6
    )


def test_a_first_stage_is_not(root: Path, tmp_path: Path) -> None:
    trainer = fit(make_module(scores=scores(root)), make_data(), tmp_path)
    assert set(trainer.callback_metrics) == {"val/loss"}


def test_a_test_reports_losses_and_shares(root: Path, tmp_path: Path) -> None:
    module, data = configured(scores=scores(root)), make_data()
    trainer_of(tmp_path, data).test(module, datamodule=data, verbose=False)
    report = module.report()
    assert report["real"].keys() == {"loss", "pairs", "zero_shot/colour", "zero_shot/shape", "zero_shot/place"}
    assert report["pairs"].keys() >= {"all", "mirror", "count"}
    assert report["pairs"]["all"] == report["real"]["pairs"]


def test_what_is_missing_is_said_before_the_first_step(root: Path, tmp_path: Path) -> None:
    empty = partial(TowerScores, preprocess=CLIP, batch=8, workers=1, test={})
    module = make_module(second=True, scores=partial(empty, val={"pairs": partial(ShapesPairs, root="x", split="val")}))
    with pytest.raises(BenchmarkError, match=r"x/pairs/val\.jsonl is not there"):
        fit(module, make_data(), tmp_path)
    assert not list(tmp_path.glob("checkpoints/*.ckpt"))
