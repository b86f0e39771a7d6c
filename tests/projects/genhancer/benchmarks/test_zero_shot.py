"""Zero-shot classification of folders and of the built-in pictures."""

import json
from pathlib import Path

import pytest
import torch

from common.encoders.tower import load_tower
from common.tiny.folder import RECORD
from projects.genhancer.benchmarks.outcome import BenchmarkError
from projects.genhancer.benchmarks.shapes_zero_shot import ShapesZeroShot
from projects.genhancer.benchmarks.table import reader_of
from projects.genhancer.benchmarks.zero_shot import ZeroShot, class_directions
from tests.projects.genhancer.benchmarks.towers import TINY, grey_reader, write_grey, write_model


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for number, level in enumerate((200, 220, 250, 60)):
        write_grey(tmp_path / "light_side" / f"{number}.png", level)
    for number, level in enumerate((10, 90)):
        write_grey(tmp_path / "n02" / "deep" / f"{number}.png", level)
    return tmp_path


def test_the_nearest_class_is_chosen(folders: Path) -> None:
    benchmark = ZeroShot(folder=str(folders), names={"n02": "dark"}, templates=["a {}.", "the {} of it"], grouped=True)
    benchmark.identity()
    outcome = benchmark.run(grey_reader())
    report = outcome.report()
    assert list(report) == ["top1"]  # of two classes, five are no measure
    assert report["top1"]["all"].value == pytest.approx(5 / 6)
    assert report["top1"]["light_side"].value == pytest.approx(3 / 4)
    assert report["top1"]["n02"].value == 1
    wrong = [row for row in outcome.answers if not row["right"]]
    assert wrong == [{"picture": "light_side/3.png", "class": "light_side", "predicted": "n02", "right": 0}]
    assert outcome.chance == {"top1": 0.5}


def test_five_of_more_classes_are_a_second_measure(tmp_path: Path) -> None:
    names = {f"{n}": "light" if n < 6 else "dark" for n in range(7)}
    for name in names:
        write_grey(tmp_path / name / "a.png", 0)  # all black: "6" comes first, then those of light in their order
    outcome = ZeroShot(folder=str(tmp_path), names=names).run(grey_reader())
    assert outcome.measures["top1"].right == [False] * 6 + [True]
    assert outcome.measures["top5"].right == [True] * 4 + [False] * 2 + [True]
    assert outcome.chance == pytest.approx({"top1": 1 / 7, "top5": 5 / 7})


def test_templates_are_averaged_as_directions(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "clip")
    reader = reader_of(load_tower(weights=str(folder)), str(folder), batch=3, workers=1, device="cpu")
    names, templates = ["red ring", "blue cross"], ["a {}", "the large {} at the top", "{}"]
    found = class_directions(reader, names, templates)
    for row, name in zip(found, names, strict=True):
        texts = reader.texts([template.format(name) for template in templates])
        mean = (texts / texts.norm(dim=1, keepdim=True)).mean(dim=0)
        torch.testing.assert_close(row, mean / mean.norm(), rtol=1e-5, atol=1e-6)


def test_wrong_folders_names_and_templates_are_told(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="holds 0 folders of classes"):
        ZeroShot(folder=str(tmp_path / "nowhere")).identity()
    with pytest.raises(BenchmarkError, match="no folder n03"):
        ZeroShot(folder=str(folders), names={"n03": "dark"}).identity()
    (folders / "empty").mkdir()
    with pytest.raises(BenchmarkError, match=r"empty holds no pictures"):
        ZeroShot(folder=str(folders)).identity()
    with pytest.raises(ValueError, match=r"each with \{\}"):
        ZeroShot(folder=str(folders), templates=["a photo"])


def test_the_guard_finds_what_the_tiny_clip_was_measured_at() -> None:
    """On other pictures than its own record: within sampling error of it."""
    benchmark = ShapesZeroShot(split="test", count=300)
    reader = reader_of(load_tower(weights=str(TINY)), str(TINY), batch=50, workers=1, device="cpu")
    report = benchmark.run(reader).report()
    recorded = json.loads((TINY / RECORD).read_text())["scores"]
    assert set(report) == {"colour", "shape", "place"}
    for kind, groups in report.items():
        assert groups["all"].value == pytest.approx(recorded[f"zero_shot/{kind}"], abs=0.03)
        assert groups["all"].cases == 300


def test_a_random_model_guesses(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "siglip")
    reader = reader_of(load_tower(weights=str(folder)), str(folder), batch=50, workers=1, device="cpu")
    report = ShapesZeroShot(split="test", count=200).run(reader).report()
    assert report["colour"]["all"].value < 0.4
    assert report["place"]["all"].value < 0.25


def test_validation_and_test_show_other_pictures() -> None:
    val, test = (
        {picture.tobytes() for picture in ShapesZeroShot(split=s, count=20).draw()[0]} for s in ("val", "test")
    )
    assert len(val) == len(test) == 20
    assert not val & test
    again = {picture.tobytes() for picture in ShapesZeroShot(split="val", count=20).draw()[0]}
    assert again == val
