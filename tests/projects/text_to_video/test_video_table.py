"""Tables of clips from other lists: columns, splits, captions beside videos, the built-in captions."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.shapes_world import dataset
from projects.text_to_video.clips import ClipTableError, media_of, read_clips
from projects.text_to_video.limits import Limits
from projects.text_to_video.pairs import PairError, Pairs, Sidecars, Tables
from projects.text_to_video.video_table import make_video_table


def make(source: Pairs, folder: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"limits": Limits(), "holdout": {}, "seed": 0, "probe": False, "max_missing": 0.0}
    return make_video_table(source=source, folder=str(folder), **settings | changes)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    none = {"train": 0, "val": 0, "test": 0}
    clips = {"train": 5, "val": 2, "test": 3}
    dataset.write(root=root, clips=clips, edits=none, pairs=none, parts=["captions"], size=32, frames=8, workers=1)
    return root


def tables(root: Path, **changes: Any) -> Tables:
    files = {split: str(root / f"captions/{split}.jsonl") for split in ("train", "val", "test")}
    return Tables(**{"media": str(root), "files": files, "columns": {}} | changes)


def test_the_built_in_captions_keep_their_splits(shapes: Path, tmp_path: Path) -> None:
    assert make(tables(shapes), tmp_path) == {
        "rows": 10,
        "train": 5,
        "val": 2,
        "test": 3,
        "hours": 0.0,
        "missing": 0,
    }
    rows = [json.loads(line) for line in (shapes / "captions/test.jsonl").read_text().splitlines()]
    clips = list(read_clips(tmp_path, splits=["test"]))
    assert [(clip.id, clip.video, clip.caption, clip.novel) for clip in clips] == [
        (row["id"], row["video"], row["caption"], row["novel"]) for row in rows
    ]
    assert all((media_of(tmp_path) / clip.video).is_file() for clip in read_clips(tmp_path))


def test_length_rate_and_size_are_found_in_the_files(shapes: Path, tmp_path: Path) -> None:
    figures = make(tables(shapes), tmp_path, probe=True, limits=Limits(seconds=[0.9, None], side=[32, None]))
    assert figures["rows"] == 10
    assert {(clip.seconds, clip.fps, clip.frames, clip.side) for clip in read_clips(tmp_path)} == {(1.0, 8.0, 8, 32)}


def test_a_clip_that_cannot_be_read_is_listed(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes((shapes / "clips/train/000000.mp4").read_bytes())
    (tmp_path / "b.mp4").write_bytes(b"no video")
    (tmp_path / "t.csv").write_text("video,caption\na.mp4,A.\nb.mp4,B.\n")
    source = Tables(media=str(tmp_path), files={"train": str(tmp_path / "t.csv")}, columns={})
    with pytest.raises(ClipTableError, match="1 of 2 clips"):
        make(source, tmp_path / "table", probe=True)
    assert make(source, tmp_path / "table", probe=True, max_missing=0.5)["missing"] == 1
    assert '"b.mp4", "reason": "cannot be read' in (tmp_path / "table/missing.jsonl").read_text()


def test_columns_may_have_other_names(shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('path,text,seconds,take\nclips/train/000000.mp4,"A, b.",4.5,x\nclips/train/000001.mp4,C.,,y\n')
    source = tables(shapes, files={"all": str(path)}, columns={"video": "path", "caption": "text", "group": "take"})
    make(source, tmp_path / "table")
    clips = list(read_clips(tmp_path / "table"))
    assert [(clip.id, clip.caption, clip.seconds, clip.group) for clip in clips] == [
        ("clips/train/000000", "A, b.", 4.5, "x"),
        ("clips/train/000001", "C.", None, "y"),
    ]
    with pytest.raises(ValueError, match=r"seconds of clips/train/000001 is not known.*task\.probe=true"):
        make(source, tmp_path / "other", limits=Limits(seconds=[4, None]))


def test_captions_beside_the_videos(shapes: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "sub/a"):
        (tmp_path / "media" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"media/{name}.mp4").write_bytes(b"x")
        (tmp_path / f"media/{name}.txt").write_text(f"About {name}.\n")
    make(Sidecars(media=str(tmp_path / "media")), tmp_path / "table")
    assert [(clip.video, clip.caption) for clip in read_clips(tmp_path / "table")] == [
        ("a.mp4", "About a."),
        ("b.mp4", "About b."),
        ("sub/a.mp4", "About sub/a."),
    ]
    (tmp_path / "media/b.txt").write_text(" \n")
    with pytest.raises(PairError, match=r"b\.txt is empty"):
        make(Sidecars(media=str(tmp_path / "media")), tmp_path / "table")
    (tmp_path / "media/b.txt").unlink()
    with pytest.raises(PairError, match=r"b\.mp4 has no caption b\.txt beside it"):
        make(Sidecars(media=str(tmp_path / "media")), tmp_path / "table")
    with pytest.raises(PairError, match="no videos"):
        make(Sidecars(media=str(tmp_path / "table")), tmp_path / "table")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "t.csv",
            "path,text\na.mp4,A.\n",
            r"line 2: no column video, there are path, text.*task\.source\.columns={video",
        ),
        ("t.csv", "video,caption\na.mp4\n", "line 2: not as many cells"),
        ("t.csv", "video,caption\na.mp4,A.,b\n", "line 2: not as many cells"),
        ("t.csv", 'video,caption\na.mp4,"A.\n', "is it cut off"),
        ("t.csv", "video,caption\na.mp4,\n", "caption is '', not a text"),
        ("t.csv", "video,caption,fps\na.mp4,A.,fast\n", "fps is 'fast', not a number"),
        ("t.csv", "video,caption\n/a.mp4,A.\n", "/a.mp4 is absolute"),
        ("t.csv", "video,caption\n", "has no rows"),
        ("t.jsonl", '{"video": "a.mp4", "caption": 3}\n', "caption is 3, not a text"),
        ("t.jsonl", "[1]\n", "not an object"),
        ("t.jsonl", '{"video": "a.mp4"\n', "not a JSON object"),
        ("t.jsonl", '{"video": "a.mp4", "caption": "A."}\n' * 2, "two rows of the source are about a"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=message):
        make(Tables(media=str(tmp_path), files={"all": str(tmp_path / name)}, columns={}), tmp_path / "table")
    assert not (tmp_path / "table/clips.jsonl").exists()


@pytest.mark.parametrize(
    "changes",
    [{"files": {}}, {"files": {"training": "a.csv"}}, {"columns": {"length": "b"}}, {"files": {"train": "a.parquet"}}],
)
def test_bad_settings_are_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"task\.source: files by|tables are \.csv or \.jsonl"):
        tables(tmp_path, **changes)
