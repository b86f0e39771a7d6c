"""The built-in pairs: an encoder that reads the captions off the pictures has them all, a blind one none."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.encoders.tower import load_tower
from common.files import read_jsonl
from common.shapes_world.pairs import DETAILS
from projects.genhancer.benchmarks.outcome import BenchmarkError
from projects.genhancer.benchmarks.pairs import ShapesPairs
from projects.genhancer.benchmarks.reader import Preprocess, Reader
from projects.genhancer.benchmarks.table import reader_of
from tests.projects.genhancer.benchmarks.towers import TINY, Grey, grey_reader


class Knowing(Grey):
    """Knows every picture by heart; of the details `blind` it takes the second for the first."""

    def __init__(self, root: Path, *, size: int, blind: Sequence[str]) -> None:
        self.image_size = size
        rows = read_jsonl(root / "pairs" / "test.jsonl")
        self.said = {caption: number for number, caption in enumerate(sorted({c for r in rows for c in r["captions"]}))}
        reader = Reader(self, preprocess=Preprocess(folder=None, family="clip", image_size=size))
        self.known: dict[bytes, int] = {}
        for row in rows:
            for name, caption in zip(("first", "second"), row["captions"], strict=True):
                told = row["captions"][0] if row["detail"] in blind else caption
                self.known[reader.pixels(root / row[name]).numpy().tobytes()] = self.said[told]

    def images(self, pixels: Tensor) -> Tensor:
        return torch.eye(len(self.said))[[self.known[each.numpy().tobytes()] for each in pixels]]

    def texts(self, texts: Sequence[str]) -> Tensor:
        return torch.eye(len(self.said))[[self.said[text] for text in texts]]


def test_details_that_are_seen_are_right_and_the_others_wrong(world: Path) -> None:
    benchmark = ShapesPairs(root=str(world), split="test")
    benchmark.identity()
    tower = Knowing(world, size=64, blind=["mirror", "count"])
    reader = Reader(tower, preprocess=Preprocess(folder=None, family="clip", image_size=64), batch=9)
    report = benchmark.run(reader).report()["pairs"]
    assert set(report) == {"all", *DETAILS}
    assert {detail: report[detail].value for detail in DETAILS} == {
        detail: 0.0 if detail in ("mirror", "count") else 1.0 for detail in DETAILS
    }
    assert report["all"].value == pytest.approx(4 / 6)
    assert report["all"].cases == 60


def test_a_tie_is_no_answer(world: Path) -> None:
    class Blind(Grey):
        def texts(self, texts: Sequence[str]) -> Tensor:
            return torch.ones(len(texts), 2)

    reader = grey_reader()
    reader.tower = Blind()
    outcome = ShapesPairs(root=str(world), split="test").run(reader)
    near = [row for row in outcome.answers if row["score1"] == 0.5]
    assert near
    assert not any(row["right"] for row in near)


def test_the_tiny_clip_sees_colours(world: Path) -> None:
    tower = load_tower(weights=str(TINY))
    reader = reader_of(tower, str(TINY), batch=32, workers=1, device="cpu")
    report = ShapesPairs(root=str(world), split="test").run(reader).report()["pairs"]
    assert report["colour"].value >= 0.8


def test_missing_pairs_and_pictures_are_told(world: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"task=shapes 'task\.parts=\[pairs\]'"):
        ShapesPairs(root=str(tmp_path), split="test").identity()
    with pytest.raises(BenchmarkError, match=r"train\.jsonl is empty"):
        ShapesPairs(root=str(world), split="train").identity()
    shutil.copytree(world / "pairs", tmp_path / "pairs")
    (tmp_path / "pairs" / "test" / "000007_second.png").unlink()
    with pytest.raises(BenchmarkError, match=r"000007_second\.png is not there, of 1 missing"):
        ShapesPairs(root=str(tmp_path), split="test").identity()
    assert json.dumps(ShapesPairs(root=str(world), split="test").identity())
