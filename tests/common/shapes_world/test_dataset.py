"""The files on disk: complete, consistent with each other, and the same after an interruption."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from common.files import read_jsonl
from common.shapes_world import media
from common.shapes_world.dataset import write

COUNTS: dict[str, Any] = {
    "clips": {"train": 9, "val": 2, "test": 3},
    "edits": {"train": 3, "val": 1, "test": 2},
    "pairs": {"train": 6, "val": 0, "test": 6},
}
ALL = ("chat", "captions", "edits", "pairs")


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "shapes"
    counts = write(root=root, seed=4, parts=ALL, workers=1, **COUNTS)
    assert counts["written"] == 14 + 6 + 12
    return root


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_chat_rows_have_the_common_form_and_name_files_that_are_there(whole: Path) -> None:
    clips = {row["id"]: row for row in read_jsonl(whole / "clips.jsonl")}
    assert len(clips) == 14
    for split, count in COUNTS["clips"].items():
        rows = json.loads((whole / "chat" / f"{split}.json").read_text())
        assert len({row["id"] for row in rows}) == len(rows)
        assert len({row["videos"][0] for row in rows}) == count
        for row in rows:
            assert set(row) == {"id", "messages", "videos", "type", "options", "choices", "novel"}
            user, assistant = row["messages"]
            assert (user["role"], assistant["role"]) == ("user", "assistant")
            assert user["content"].startswith("<video>")
            clip = clips[row["id"].rsplit("/", 1)[0]]
            assert row["videos"] == [clip["video"]]
            assert (whole / clip["video"]).is_file()


def test_clips_are_videos_of_what_is_described(whole: Path) -> None:
    for clip in read_jsonl(whole / "clips.jsonl"):
        frames = decode(whole / clip["video"])
        assert frames.shape == (clip["frames"], clip["size"], clip["size"], 3)
        shown = (np.abs(frames.astype(int) - clip["background"]).max(-1) > 60).any((1, 2))
        expected = [any(t["first"] <= i < t["end"] for t in clip["things"]) for i in range(len(frames))]
        assert shown.tolist() == expected


def test_one_history_has_two_futures(whole: Path) -> None:
    rows = read_jsonl(whole / "edits" / "train.jsonl")
    assert len(rows) == 6
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert one["history"] == two["history"]
        assert one["instruction"] != two["instruction"]
        assert len(decode(whole / one["history"])) == 20
        first, second = (np.asarray(Image.open(whole / row["target"]), dtype=int) for row in (one, two))
        assert first.shape == (64, 64, 3)
        assert (np.abs(first - second).max(-1) > 60).sum() > 20


def test_pairs_are_written_with_a_caption_each(whole: Path) -> None:
    rows = read_jsonl(whole / "pairs" / "test.jsonl")
    assert [row["detail"] for row in rows] == ["position", "mirror", "colour", "shape", "size", "count"]
    for row in rows:
        first, second = (np.asarray(Image.open(whole / row[key])) for key in ("first", "second"))
        assert (first != second).any()
        assert row["captions"][0] != row["captions"][1]


def test_a_second_call_writes_nothing(whole: Path) -> None:
    before = contents(whole)
    assert write(root=whole, seed=4, parts=ALL, workers=1, **COUNTS)["written"] == 0
    assert contents(whole) == before


def test_killed_half_way_and_started_again_gives_the_same_bytes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "shapes"
    calls = 0
    real = media.write_h264

    def failing(path: Path, *args: Any, **settings: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / f".{path.name}.abcd1234.part").write_bytes(b"half")  # as a kill leaves it
            raise KeyboardInterrupt
        real(path, *args, **settings)

    monkeypatch.setattr(media, "write_h264", failing)
    with pytest.raises(KeyboardInterrupt):
        write(root=root, seed=4, parts=ALL, workers=1, **COUNTS)
    done = {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")}
    assert len(done) == 5
    counts = write(root=root, seed=4, parts=ALL, workers=1, **COUNTS)
    assert counts["written"] == 14 + 6 + 12 - 5
    assert contents(root) == contents(whole)
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())


def test_processes_and_added_parts_give_the_same_bytes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "FEW", 0)
    write(root=tmp_path / "shapes", seed=4, parts=["captions"], workers=2, **COUNTS)
    write(root=tmp_path / "shapes", seed=4, parts=["pairs", "chat", "edits"], workers=2, **COUNTS)
    assert contents(tmp_path / "shapes") == contents(whole)


def test_a_clip_does_not_depend_on_how_many_are_asked(whole: Path, tmp_path: Path) -> None:
    few = {**COUNTS, "clips": {"train": 2, "val": 0, "test": 1}}
    write(root=tmp_path / "shapes", seed=4, workers=1, **few)
    for name in ("clips/train/000001.mp4", "clips/test/000000.mp4"):
        assert (tmp_path / "shapes" / name).read_bytes() == (whole / name).read_bytes()


def test_other_settings_in_the_same_folder_are_refused(whole: Path) -> None:
    with pytest.raises(ValueError, match=r"seed=4 \(asked: 5\)"):
        write(root=whole, seed=5, workers=1, **COUNTS)
    with pytest.raises(ValueError, match="choose another root"):
        write(root=whole, seed=4, workers=1, **{**COUNTS, "clips": {"train": 1, "val": 1, "test": 1}})


def test_wrong_arguments_and_a_foreign_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="parts must be some of"):
        write(root=tmp_path / "a", parts=["chats"], **COUNTS)
    with pytest.raises(ValueError, match="clips must give a number"):
        write(root=tmp_path / "a", **{**COUNTS, "clips": {"train": 3}})
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        write(root=tmp_path / "mine", **COUNTS)
