"""The built-in edits as a set: pairs, kinds, and frames without loss."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.shapes_world.dataset import write
from common.video.decode import read
from projects.pix2pix_video.edit_check import check_edit_frames
from projects.pix2pix_video.edit_frames import make_edit_frames
from projects.pix2pix_video.frames import EditFrames
from projects.pix2pix_video.sources.built_in import BuiltInEdits
from tests.projects.pix2pix_video.edit_sources import SETTINGS

NONE = {"train": 0, "val": 0, "test": 0}
EDITS = {"train": 4, "val": 2, "test": 2}
DRAWN: dict[str, Any] = {"clips": NONE, "pairs": NONE, "edits": EDITS, "parts": ["edits"], "size": 32, "history": 5}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    write(root=root, lead=3, workers=1, **DRAWN)
    return root


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "shapes"))


def make(root: Path, **changes: Any) -> dict[str, Any]:
    settings = {**SETTINGS, "history": 5, "gap": 3, **changes}
    return make_edit_frames(source=BuiltInEdits(root=str(root)), folder=str(root / "set"), **settings)


def test_each_history_gives_a_pair_of_rows(root: Path) -> None:
    assert make(root) == {"train": 8, "val": 4, "test": 4, "clips": 8, "skipped": 0}
    table = [json.loads(line) for line in (root / "edits" / "train.jsonl").read_text().splitlines()]
    data = EditFrames(folder=str(root / "set"), split="train", size=32, history=5)
    for row, told in zip(data.rows, table, strict=True):
        assert (row.id, row.instruction, row.task, row.novel) == (
            told["id"],
            told["instruction"],
            told["kind"],
            told["novel"],
        )
        assert row.target == told["target"]
    for first, second in zip(data.rows[::2], data.rows[1::2], strict=True):
        assert first.pair == second.pair
        assert first.history == second.history
        assert first.task != second.task
    assert len({row.pair for row in data.rows}) == 4
    assert {row.novel for row in data.rows} == {False}


def test_frames_are_those_of_the_video_without_loss(root: Path) -> None:
    make(root)
    data = EditFrames(folder=str(root / "set"), split="val", size=32, history=5)
    video = read(root / "edits" / "val" / "000000.mp4", range(5)).frames
    pixels = data.pixels(0).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels[:5], video)
    assert np.array_equal(pixels[5], np.asarray(Image.open(root / data.rows[0].target)))
    figures = check_edit_frames(folder=str(root / "set"), media=None, report=str(root / "report.jsonl"), workers=1)
    assert figures == {"train": 8, "val": 4, "test": 4, "images": 40}


def test_a_shorter_history_takes_the_newest_frames(root: Path) -> None:
    make(root, history=2, stride=2)
    (row, *_) = EditFrames(folder=str(root / "set"), split="train", size=32, history=2).rows
    assert [Path(file).stem for file in row.history] == ["0002", "0004"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gap": 1}, "set task.gap=3 task.step=null task.anchor=end"),
        ({"step": 2}, "set task.gap=3 task.step=null task.anchor=end"),
        ({"history": 6}, "6 frames at stride 1 are asked of histories of 5"),
        ({"stride": 2}, "5 frames at stride 2 are asked of histories of 5"),
    ],
)
def test_windows_that_were_not_drawn_are_refused(changes: dict[str, Any], message: str, root: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make(root, **changes)


def test_what_is_missing_is_named_with_its_command(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train.jsonl is not there; run .* task=shapes 'task.parts=\[edits\]'"):
        make(tmp_path / "nowhere")
    (root / "edits" / "test" / "000001.mp4").unlink()
    with pytest.raises(ValueError, match="1 of 8 clips are left out"):
        make(root)


def test_pairs_stay_together_in_a_hold_out(root: Path) -> None:
    make(root, merge=["val"], holdout=0.4, seed=2)
    splits = [EditFrames(folder=str(root / "set"), split=split, size=32, history=5).rows for split in ("train", "val")]
    assert {row.pair for row in splits[0]}.isdisjoint(row.pair for row in splits[1])
    assert sum(map(len, splits)) == 12
