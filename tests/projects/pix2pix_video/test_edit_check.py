"""The check: all that is wrong with a set in one table, and nothing where nothing is."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from projects.pix2pix_video.edit_check import check_edit_frames
from projects.pix2pix_video.edit_sheet import write_sheet
from tests.projects.pix2pix_video.edit_sources import make, write_guide

CLIPS = {"train": ["move_object/video_1", "drop_object/video_2"], "val": ["move_object/video_3"]}
HISTORY = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edits")
    make(write_guide(folder / "media", CLIPS), folder / "set", history=HISTORY)
    return folder


@pytest.fixture
def edits(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "edits"))


def check(edits: Path) -> dict[str, int]:
    report = edits / "report.jsonl"
    return check_edit_frames(folder=str(edits / "set"), media=None, report=str(report), workers=1)


def findings(edits: Path) -> list[tuple[str, str, str, str]]:
    with pytest.raises(ValueError, match=r"findings in .*, listed above and in .*report.jsonl"):
        check(edits)
    rows = [json.loads(line) for line in (edits / "report.jsonl").read_text().splitlines()]
    return [(row["split"], row["row"], row["file"], row["problem"]) for row in rows]


def change(edits: Path, **changes: Any) -> None:
    """Writes columns of train anew."""
    found = datasets.load_from_disk(str(edits / "set"))
    splits = {}
    for split, data in found.items():
        columns = data.cast_column("edited_image", datasets.Image(decode=False)).to_dict()
        features = data.features.copy()
        features["input_frames"] = datasets.List(datasets.Value("string"))
        splits[split] = datasets.Dataset.from_dict(
            {**columns, **(changes if split == "train" else {})}, features=features
        )
    record = (edits / "set" / "edits.json").read_text()
    shutil.rmtree(edits / "set")
    datasets.DatasetDict(splits).save_to_disk(str(edits / "set"))
    (edits / "set" / "edits.json").write_text(record)


def columns(edits: Path) -> dict[str, list[Any]]:
    return dict(datasets.load_from_disk(str(edits / "set"))["train"].remove_columns("edited_image").to_dict())


def test_a_good_set_passes(made: Path) -> None:
    assert check(made) == {"train": 2, "val": 1, "images": 9}
    assert (made / "report.jsonl").read_text() == ""


def test_every_bad_row_is_in_one_table(edits: Path, caplog: pytest.LogCaptureFixture) -> None:
    media = edits / "media" / "train"
    (media / "move_object/video_1/17.jpg").unlink()
    Image.open(media / "drop_object/video_2/18.jpg").convert("L").save(media / "drop_object/video_2/18.jpg")
    Image.open(edits / "media/val/move_object/video_3/19.jpg").resize((8, 8)).save(
        edits / "media/val/move_object/video_3/19.jpg"
    )
    with caplog.at_level(logging.ERROR):
        found = findings(edits)
    assert [place[:3] for place in found] == [
        ("train", "train/move_object/video_1", "train/move_object/video_1/17.jpg"),
        ("train", "train/drop_object/video_2", "train/drop_object/video_2/18.jpg"),
        ("val", "val/move_object/video_3", "val/move_object/video_3/20.jpg"),
    ]
    assert [problem.split(";")[0] for *_, problem in found] == [
        "no such file",
        "the image is grey (mode L), three channels are expected",
        "the frames of the row differ in size: 8x8, 96x64",
    ]
    (table,) = caplog.messages
    assert len(table.splitlines()) == 5
    assert table.splitlines()[1].split() == ["split", "row", "file", "problem"]


@pytest.mark.parametrize("kind", ["absolute", "leak", "shared", "empty", "same id", "length"])
def test_what_is_wrong_with_rows_is_found(kind: str, edits: Path) -> None:
    old = columns(edits)
    first, second = old["input_frames"]
    val = "val/move_object/video_3/18.jpg"
    changed: dict[str, tuple[dict[str, Any], str]] = {
        "absolute": (
            {"input_frames": [[str(edits / "media" / file) for file in first], second]},
            "is absolute; the set cannot be moved",
        ),
        "leak": ({"input_frames": [[*first[:2], old["target_frame"][0]], second]}, "is the frame to predict"),
        "shared": ({"input_frames": [first, [*second[:2], val]]}, "is in split train too"),
        "empty": ({"edit_prompt": [" ", "go"]}, "is empty; write an instruction"),
        "same id": ({"id": ["a", "a"]}, "2 rows have it"),
        "length": ({"input_frames": [first[:2], second]}, "2 frames, others have 3"),
    }
    columns_changed, problem = changed[kind]
    change(edits, **columns_changed)
    found = findings(edits)
    assert any(problem in text for *_, text in found)
    assert len(found) == {"absolute": 3, "same id": 2}.get(kind, 1)


def test_another_schema_and_another_record_are_found(edits: Path) -> None:
    record = edits / "set" / "edits.json"
    told = json.loads(record.read_text())
    record.write_text(json.dumps({**told, "counts": {"train": 7}, "history": 20}))
    assert [problem for *_, problem in findings(edits)] == [
        "says 20 frames a history, the rows have 3",
        "says {'train': 7} rows, there are {'train': 2, 'val': 1}",
    ]
    found = datasets.load_from_disk(str(edits / "set"))
    kept = datasets.DatasetDict({split: data.remove_columns("edit_prompt") for split, data in found.items()})
    kept.save_to_disk(str(edits / "other"))
    shutil.rmtree(edits / "set")
    shutil.move(edits / "other", edits / "set")
    assert findings(edits) == [(split, "", "", "no column edit_prompt") for split in ("train", "val")]


def test_the_sheet_shows_history_and_target(made: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"media": None, "split": "train", "size": 32, "crop": "squash", "seed": 0}
    figures = write_sheet(
        folder=str(made / "set"), rows=5, frames=2, output=str(tmp_path / "a" / "sheet.png"), **settings
    )
    assert (figures["rows"], figures["of"]) == (2, 2)
    with Image.open(tmp_path / "a" / "sheet.png") as page:
        assert page.size == (3 * 36 + 8, 2 * 76)
        sheet = page.convert("RGB")
    frame = Image.open(made / "media/train/move_object/video_1/20.jpg").resize((32, 32), Image.Resampling.BICUBIC)
    shown = sheet.crop((4 + 2 * 36 + 4, 36, 4 + 2 * 36 + 4 + 32, 68))
    different = sum(abs(a - b) for a, b in zip(shown.tobytes(), frame.tobytes(), strict=True)) / (32 * 32 * 3)
    assert different < 3
    one = write_sheet(folder=str(made / "set"), rows=1, frames=1, output=str(tmp_path / "one.png"), **settings)
    assert one["rows"] == 1
    with pytest.raises(ValueError, match=r"task.rows=0"):
        write_sheet(folder=str(made / "set"), rows=0, frames=1, output=str(tmp_path / "no.png"), **settings)
