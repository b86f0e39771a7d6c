"""Sets from folders of frames: splits, what is left out, what is made once, and what can be moved."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Image, List, Value, load_from_disk

from projects.pix2pix_video import edit_frames
from projects.pix2pix_video.arrow import write_set
from projects.pix2pix_video.frames import EditFrames
from tests.projects.pix2pix_video.edit_sources import (
    HISTORY,
    SIZE,
    edit_metadata,
    make,
    shown_in,
    write_clip,
    write_guide,
)

CLIPS = {
    "train": ["move_object/video_1", "move_object/video_2", "drop_object/video_1"],
    "val": ["move_object/video_9"],
    "test": ["cover_object/video_5"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_guide(tmp_path / "media", CLIPS)


def ids(folder: Path, split: str, **changes: Any) -> set[str]:
    return {row.id for row in EditFrames(folder=str(folder), split=split, size=16, history=None, **changes).rows}


def test_a_set_has_the_guides_features_and_the_official_splits(root: Path, tmp_path: Path) -> None:
    assert make(root, tmp_path / "set") == {"train": 3, "val": 1, "test": 1, "clips": 5, "skipped": 0}
    found = load_from_disk(str(tmp_path / "set"))
    assert set(found) == set(CLIPS)
    features = found["train"].features
    assert features["input_frames"] == List(Value("string"), length=HISTORY)
    assert features["edit_prompt"] == Value("string")
    assert features["edited_image"] == Image()
    for split, names in CLIPS.items():
        assert set(found[split]["id"]) == {f"{split}/{name}" for name in names}
    row = found["val"][0]
    assert row["input_frames"] == [f"val/move_object/video_9/{number:02d}.jpg" for number in range(20)]
    assert (row["edit_prompt"], row["task"]) == ("do move_object/video_9", "move_object")
    target = root / row["target_frame"]
    assert target.name == "20.jpg"
    stored = found["val"].cast_column("edited_image", Image(decode=False))[0]["edited_image"]["bytes"]
    assert stored == target.read_bytes()  # not encoded a second time


def test_the_record_beside_the_set_tells_how_it_was_made(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "set")
    record = json.loads((tmp_path / "set" / "edits.json").read_text())
    told = {key: record[key] for key in ("history", "gap", "stride", "source", "counts", "skipped", "media")}
    assert told == {
        "history": 20,
        "gap": 1,
        "stride": 1,
        "source": "guide",
        "counts": {"train": 3, "val": 1, "test": 1},
        "skipped": 0,
        "media": "../media",
    }
    assert record["tasks"]["train"] == {"drop_object": 1, "move_object": 2}


@pytest.mark.parametrize("metadata", ["metadata.json", "metadata.jsonl"])
def test_both_forms_of_metadata_give_the_same_rows(metadata: str, root: Path, tmp_path: Path) -> None:
    other = write_guide(tmp_path / "other", CLIPS, metadata=metadata)
    make(root, tmp_path / "set")
    make(other, tmp_path / "other_set")
    rows = [
        load_from_disk(str(tmp_path / name))["train"].remove_columns("edited_image") for name in ("set", "other_set")
    ]
    assert rows[0].to_list() == rows[1].to_list()


def test_paths_may_be_those_of_another_machine_or_relative_to_the_metadata(tmp_path: Path) -> None:
    root = tmp_path / "media"
    for name in ("train/move_object/video_1", "train/move_object/video_2", "train/video_3"):
        write_clip(root / name)
    (root / "train" / "move_object" / "metadata.jsonl").write_text(
        '{"video_path": "video_1", "instruction": "one"}\n'
        '{"video_path": "/elsewhere/dataset_root/train/move_object/video_2", "instruction": "two"}\n'
    )
    (root / "metadata.json").write_text('[{"video_path": "train/video_3", "instruction": "three"}]')
    assert make(root, tmp_path / "set")["train"] == 3
    found = load_from_disk(str(tmp_path / "set"))["train"]
    told = dict(zip(found["id"], zip(found["task"], found["edit_prompt"], strict=True), strict=True))
    assert told == {
        "train/move_object/video_1": ("move_object", "one"),
        "train/move_object/video_2": ("move_object", "two"),
        "train/video_3": ("", "three"),
    }
    assert not any(Path(path).is_absolute() for row in found for path in [*row["input_frames"], row["target_frame"]])


def test_splits_and_clips_may_be_links(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "train", tmp_path / "elsewhere")
    (root / "train").symlink_to(tmp_path / "elsewhere")
    shutil.move(root / "val" / "move_object" / "video_9", tmp_path / "clip")
    (root / "val" / "move_object" / "video_9").symlink_to(tmp_path / "clip")
    assert make(root, tmp_path / "set") == {"train": 3, "val": 1, "test": 1, "clips": 5, "skipped": 0}


def test_rows_of_older_metadata_and_of_windows(tmp_path: Path) -> None:
    root = tmp_path / "media"
    for name in ("train/a/video_1", "train/a/video_2"):
        write_clip(root / name)
    rows = [
        {"input_frames_folder": "train/a/video_1", "edit_prompt": "one"},
        {"video_path": "C:\\data\\train\\a\\video_2", "instruction": "two"},
    ]
    (root / "metadata.json").write_text(json.dumps(rows))
    make(root, tmp_path / "set")
    assert load_from_disk(str(tmp_path / "set"))["train"]["edit_prompt"][:] == ["one", "two"]


def test_set_and_media_can_be_moved_together_and_apart(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "set")
    before = EditFrames(folder=str(tmp_path / "set"), split="val", size=16, history=20).pixels(0)
    (tmp_path / "moved").mkdir()
    for name in ("set", "media"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    assert EditFrames(folder=str(tmp_path / "moved" / "set"), split="val", size=16, history=20).pixels(0).equal(before)
    shutil.move(tmp_path / "moved" / "media", tmp_path / "away")
    with pytest.raises(ValueError, match=r"nor a folder .*: say in media where the frames are now"):
        EditFrames(folder=str(tmp_path / "moved" / "set"), split="val", size=16, history=20).pixels(0)
    apart = EditFrames(
        folder=str(tmp_path / "moved/set"), split="val", media=str(tmp_path / "away"), size=16, history=20
    )
    assert apart.pixels(0).equal(before)


def test_one_frame_of_history_keeps_the_target(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "twenty")
    make(root, tmp_path / "one", history=1)
    (one,) = EditFrames(folder=str(tmp_path / "one"), split="val", size=64, history=1).rows
    (twenty,) = EditFrames(folder=str(tmp_path / "twenty"), split="val", size=64, history=20).rows
    assert one.history == twenty.history[-1:]
    assert one.target == twenty.target


def test_windows_of_long_clips(tmp_path: Path) -> None:
    root = tmp_path / "media"
    write_clip(root / "train" / "a", first=50, count=9)
    (root / "metadata.json").write_text('[{"video_path": "train/a", "instruction": "go"}]')
    made = make(root, tmp_path / "set", clip_frames=None, history=2, stride=2, gap=3, step=2)
    assert made["train"] == 2
    rows = EditFrames(folder=str(tmp_path / "set"), split="train", size=64, history=2).rows
    shown = [[shown_in(root / file) for file in (*row.history, row.target)] for row in rows]
    assert shown == [[51, 53, 56], [53, 55, 58]]
    assert [row.id for row in rows] == ["train/a/0001", "train/a/0003"]


def test_two_instructions_of_one_clip_are_a_pair(root: Path, tmp_path: Path) -> None:
    edit_metadata(root, [{"video_path": "train/move_object/video_1", "instruction": "and back"}])
    assert make(root, tmp_path / "set")["train"] == 4
    rows = {row.id: row for row in EditFrames(folder=str(tmp_path / "set"), split="train", size=16, history=20).rows}
    first, second = rows["train/move_object/video_1"], rows["train/move_object/video_1/instruction_2"]
    assert first.pair == second.pair == "train/move_object/video_1"
    assert first.history == second.history
    assert rows["train/move_object/video_2"].pair == ""


def spoil(root: Path, kind: str) -> str:
    """Makes one clip of train unusable; returns a piece of the reason."""
    frame = root / "train" / "move_object" / "video_2" / "07.jpg"
    row = {"video_path": "train/move_object/video_7", "instruction": "go"}
    if kind == "missing":
        frame.unlink()
        return "is missing (1 of 21 frames are)"
    if kind == "last missing":
        frame.with_name("20.jpg").unlink()
        return "is missing (1 of 21 frames are)"
    if kind == "one more":
        shutil.copy(frame, frame.with_name("21.jpg"))
        return "lies beyond the 21 frames"
    if kind == "twice":
        shutil.copy(frame, frame.with_name("7.png"))
        return "has the number of"
    if kind == "cut off":
        frame.write_bytes(frame.read_bytes()[:600])
        return "damaged image"
    if kind == "no image":
        frame.write_bytes(b"nothing")
        return "not an image"
    if kind in ("L", "RGBA", "P"):
        _rewrite(frame, mode=kind)
        return f"(mode {kind})"
    if kind == "size":
        _rewrite(frame, size=(48, 32))
        return "the frame is 48x32"
    if kind == "unlisted":
        write_clip(root / "train" / "move_object" / "video_3")
        return "no metadata names it"
    row |= {"no folder": {}, "no instruction": {"instruction": " "}}[kind]
    edit_metadata(root, [row])
    return "has no instruction" if kind == "no instruction" else "is no folder of a split"


def _rewrite(path: Path, *, mode: str = "RGB", size: tuple[int, int] = SIZE[::-1]) -> None:
    from PIL import Image as Pillow

    with Pillow.open(path) as image:
        changed = image.convert(mode).resize(size)
    changed.save(path, format="JPEG" if mode in ("L", "RGB") else "PNG")


KINDS = ["missing", "last missing", "one more", "twice", "cut off", "no image", "L", "RGBA", "P", "size"]


@pytest.mark.parametrize("kind", [*KINDS, "unlisted", "no folder", "no instruction"])
def test_a_bad_clip_is_left_out_listed_and_counted(kind: str, root: Path, tmp_path: Path) -> None:
    reason = spoil(root, kind)
    with pytest.raises(ValueError, match=r"more than task.max_skipped=0.1"):
        make(root, tmp_path / "set", max_skipped=0.1)
    assert not (tmp_path / "set").exists()
    (listed,) = json.loads((tmp_path / "set_skipped.json").read_text())
    assert reason in listed["reason"]
    figures = make(root, tmp_path / "set", max_skipped=0.3)
    assert figures["skipped"] == 1
    (listed,) = json.loads((tmp_path / "set" / "skipped.json").read_text())
    assert reason in listed["reason"]
    left = ids(tmp_path / "set", "train")
    assert ("train/move_object/video_2" in left) == (kind in ("unlisted", "no folder", "no instruction"))
    assert len(left) == figures["train"] == (3 if kind in ("unlisted", "no folder", "no instruction") else 2)


def test_a_grey_frame_outside_the_windows_harms_nothing(root: Path, tmp_path: Path) -> None:
    _rewrite(root / "train" / "move_object" / "video_2" / "00.jpg", mode="L")
    assert make(root, tmp_path / "set", history=1)["skipped"] == 0


def test_a_set_is_made_once_and_known_by_what_it_was_made_of(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = make(root, tmp_path / "set")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    with monkeypatch.context() as patched:
        patched.setattr(edit_frames, "write_set", never)
        assert make(root, tmp_path / "set") == figures
        assert make(root, tmp_path / "set", max_skipped=0.5) == figures  # what may be left out is not in it
        for changes in ({"history": 19}, {"gap": 2, "history": 19}, {"stride": 2, "history": 3}, {"merge": ["val"]}):
            with pytest.raises(ValueError, match="made from something else; remove it"):
                make(root, tmp_path / "set", **changes)
    shutil.copy(root / "val/move_object/video_9/00.jpg", root / "train/move_object/video_1/05.jpg")
    with pytest.raises(ValueError, match="made from something else"):
        make(root, tmp_path / "set")


def test_a_killed_run_leaves_no_set_and_the_next_one_makes_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(root, tmp_path / "whole")

    def killed(folder: Path, *arguments: Any, **keywords: Any) -> None:
        write_set(folder, *arguments, **keywords)
        shutil.copytree(folder, folder.with_name(".set.0123abcd.part"))  # SIGKILL: nobody tidies up
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(edit_frames, "write_set", killed)
        with pytest.raises(KeyboardInterrupt):
            make(root, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    make(root, tmp_path / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["media", "set", "whole"]
    assert ids(tmp_path / "set", "train") == ids(tmp_path / "whole", "train")


def test_rows_do_not_depend_on_the_number_of_processes(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "one")
    make(root, tmp_path / "two", workers=2)
    splits = [EditFrames(folder=str(tmp_path / name), split="train", size=16, history=20) for name in ("one", "two")]
    assert splits[0].fingerprint == splits[1].fingerprint


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train is no folder; task.source.root"):
        make(tmp_path / "nowhere", tmp_path / "set")
    (tmp_path / "media" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds no metadata.json or metadata.jsonl"):
        make(tmp_path / "media", tmp_path / "set")
    (tmp_path / "media" / "metadata.json").write_text("{}")
    with pytest.raises(ValueError, match="it should hold a list of rows"):
        make(tmp_path / "media", tmp_path / "set")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge": ["train"]}, "may name val and test"),
        ({"merge": ["val", "val"]}, "each once"),
        ({"merge": ["val"], "holdout": 0.0}, "task.holdout=0.0 must lie above 0"),
        ({"merge": ["val", "test"], "holdout": 0.5}, "below 1 for 2 merged splits"),
        ({"max_skipped": 2.0}, "task.max_skipped=2.0 is a share"),
        ({"workers": 0}, "task.workers=0"),
    ],
)
def test_wrong_keys_are_named(changes: dict[str, Any], message: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make(root, tmp_path / "set", **changes)


def test_a_merge_is_written_to_the_record(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "set", merge=["val"], holdout=0.4)
    record = json.loads((tmp_path / "set" / "edits.json").read_text())
    assert (record["merge"], record["holdout"], record["seed"]) == (["val"], 0.4, 0)
    assert record["counts"]["train"] + record["counts"]["val"] == 4
