"""Videos to tars of frames: whole clips, their times and labels, one size for a clip, the same bytes after a kill."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.files import read_jsonl
from common.video.decode import probe, read
from common.video.transform import resize_short_side
from common.video.write import write_h264
from projects.genhancer import clip_frames as task
from projects.genhancer.clip_frames import clip_frames
from projects.genhancer.clip_media import ClipTars
from projects.genhancer.clip_pictures import key_of
from projects.genhancer.clip_sources import BuiltInClips, SomethingSomething, VideoFolder
from projects.genhancer.samplers import BySsim, Dilated, Sampler, Sliding, Triplets
from projects.genhancer.sampling import Choice
from tests.common.video.files import draw, ffmpeg, number_of

SETTINGS: dict[str, Any] = {
    "fps": None,
    "max_frames": None,
    "min_change": 0.0,
    "sampler": None,
    "size": None,
    "crop": "keep",
    "quality": 95,
    "shard_size": 2,
    "max_skipped": 0.0,
    "workers": 1,
}


def write_clip(path: Path, numbers: Sequence[int], *, fps: float = 8.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_h264(path, np.stack([draw(number) for number in numbers]), fps=fps)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips, two of them of val; clip i shows 100 i, 100 i + 1, ..."""
    folder = tmp_path_factory.mktemp("videos")
    for clip, (name, count) in enumerate([("a", 6), ("b", 5), ("c.d", 7), ("val/e", 4), ("val/f", 9)]):
        write_clip(folder / f"{name}.mp4", range(100 * clip, 100 * clip + count))
    return folder


def make(videos: Path, folder: Path, **changes: Any) -> dict[str, int]:
    return clip_frames(source=VideoFolder(folder=str(videos)), folder=str(folder), **{**SETTINGS, **changes})


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def numbers(media: ClipTars, row: int) -> list[int]:
    """The numbers in all frames of a clip."""
    return [number_of(frame) for frame in media.show(row, lambda seconds: range(len(seconds))).frames]


def test_clips_lie_whole_in_tars_with_times_and_sources(videos: Path, tmp_path: Path) -> None:
    figures = make(videos, tmp_path)
    assert figures == {"train": 3, "val": 2, "frames": 31, "skipped": 0, "tars made": 3, "tars missing": 0}
    train = ClipTars(folder=str(tmp_path / "train"))
    assert [train.name(row) for row in range(3)] == ["a", "b", "c.d"]
    assert [numbers(train, row) for row in range(3)] == [[*range(6)], [*range(100, 105)], [*range(200, 207)]]
    assert train.seconds(0).tolist() == pytest.approx((np.arange(6) / 8).tolist(), abs=1e-3)
    assert train.row(2)["source"] == "c.d.mp4"
    assert [numbers(ClipTars(folder=str(tmp_path / "val")), row)[0] for row in range(2)] == [300, 400]


def test_the_members_of_a_tar(videos: Path, tmp_path: Path) -> None:
    make(videos, tmp_path)
    with tarfile.open(tmp_path / "train" / "shard_00000.tar") as tar:
        names = tar.getnames()
        told = json.loads(tar.extractfile("b.json").read())  # type: ignore[union-attr]
    assert names == ["a.json", *(f"a.{k}.jpg" for k in range(6)), "b.json", *(f"b.{k}.jpg" for k in range(5))]
    assert told["numbers"] == [*range(5)]
    assert {"id", "seconds", "label", "caption", "source", "split", "key"} <= set(told)


def test_a_second_call_does_nothing(videos: Path, tmp_path: Path) -> None:
    make(videos, tmp_path)
    before = everything(tmp_path)
    assert make(videos, tmp_path)["tars made"] == 0
    assert everything(tmp_path) == before


def test_a_killed_task_goes_on_and_ends_with_the_same_bytes(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(videos, tmp_path / "whole")
    taken, real = [], task.take

    def killed(clip: Any, *arguments: Any) -> Any:
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(clip.id)
        return real(clip, *arguments)

    monkeypatch.setattr(task, "take", killed)
    with pytest.raises(KeyboardInterrupt):
        make(videos, tmp_path / "killed")
    half = tmp_path / "killed" / "train" / ".shard_00001.tar.0a1b2c3d.part"
    half.write_bytes(b"half a tar")
    monkeypatch.setattr(task, "take", real)
    assert make(videos, tmp_path / "killed")["tars made"] == 2
    assert everything(tmp_path / "killed") == everything(tmp_path / "whole")


def test_processes_and_machines_make_the_same_bytes(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(videos, tmp_path / "one")
    assert make(videos, tmp_path / "two", shard="0/2")["tars missing"] == 1
    monkeypatch.setattr("common.processes.FEW", 1)
    assert make(videos, tmp_path / "two", shard="1/2", workers=2)["tars missing"] == 0
    assert everything(tmp_path / "two") == everything(tmp_path / "one")


def test_other_settings_or_files_need_another_folder(videos: Path, tmp_path: Path) -> None:
    make(videos, tmp_path)
    for changes in ({"fps": 4.0}, {"sampler": Triplets()}, {"quality": 90}, {"shard_size": 3}):
        with pytest.raises(ValueError, match="frames of other clips or settings"):
            make(videos, tmp_path, **changes)


# Which frames, and how large


def test_frames_are_taken_at_a_rate(videos: Path, tmp_path: Path) -> None:
    make(videos, tmp_path, fps=4.0)
    assert numbers(ClipTars(folder=str(tmp_path / "train")), 0) == [0, 2, 4]


def test_at_most_so_many_frames(videos: Path, tmp_path: Path) -> None:
    make(videos, tmp_path, max_frames=4)
    assert numbers(ClipTars(folder=str(tmp_path / "val")), 1) == [400, 402, 405, 408]


@pytest.mark.parametrize(
    ("sampler", "kept"),
    [
        (Triplets(), [400, 404, 408]),
        (Sliding(count=2, step=0.25, stride=1.0), [400, 402, 404]),
        (Dilated(count=1, step=0.5, stride=1.0), [400, 404, 408]),
    ],
)
def test_only_frames_that_a_sampler_may_choose(videos: Path, tmp_path: Path, sampler: Sampler, kept: list[int]) -> None:
    make(videos, tmp_path, sampler=sampler, max_skipped=1.0)
    val = ClipTars(folder=str(tmp_path / "val"))
    assert numbers(val, len(val) - 1) == kept


def test_frames_chosen_by_motion_are_a_triplet_afterwards(videos: Path, tmp_path: Path) -> None:
    make(videos, tmp_path, sampler=BySsim())
    media = ClipTars(folder=str(tmp_path / "train"))
    for row in range(3):
        assert len(media.seconds(row)) == 3
        from projects.genhancer.sampling import triplets

        assert triplets(media.seconds(row)) == [Choice((0, 2), 1)]


def test_frames_that_repeat_are_no_frames(tmp_path: Path) -> None:
    write_clip(tmp_path / "videos" / "a.mp4", [1, 1, 1, 2, 2, 3])
    folder = tmp_path / "set"
    make(tmp_path / "videos", folder, min_change=2.0)
    media = ClipTars(folder=str(folder / "train"))
    assert numbers(media, 0) == [1, 2, 3]
    assert media.seconds(0).tolist() == pytest.approx([0.0, 3 / 8, 5 / 8], abs=1e-3)


@pytest.mark.parametrize(
    ("size", "crop", "shape"),
    [
        (None, "keep", (64, 96)),
        (32, "keep", (32, 48)),
        (200, "keep", (64, 96)),
        (32, "centre", (32, 32)),
        (None, "squash", (64, 64)),
    ],
)
def test_one_size_for_all_frames_of_a_clip(
    videos: Path, tmp_path: Path, size: int | None, crop: str, shape: tuple[int, int]
) -> None:
    make(videos, tmp_path, size=size, crop=crop, sampler=Triplets())
    media = ClipTars(folder=str(tmp_path / "train"))
    for row in range(3):
        shown = media.show(row, lambda seconds: range(len(seconds))).frames
        assert shown.shape == (3, *shape, 3)
        assert (media.row(row)["height"], media.row(row)["width"]) == shape


# Labels


def write_something(folder: Path) -> SomethingSomething:
    """Two clips of train, one of val and one of the test, as webm at 12 a second, with the official files."""
    template = "Pushing [something] from left to right"
    rows = {
        "train": [(1, "pushing a cup from left to right", template), (2, "pushing a pen from left to right", template)],
        "val": [(3, "covering a key with cloth", "Covering [something] with [something]")],
        "test": [(4, None, None)],
    }
    (folder / "videos").mkdir(parents=True)
    for split, found in rows.items():
        named = [{"id": str(i)} | ({"label": label, "template": text} if label else {}) for i, label, text in found]
        (folder / f"{split}.json").write_text(json.dumps(named))
        for number, _, _ in found:
            mp4 = write_clip(folder / "mp4" / f"{number}.mp4", range(100 * number, 100 * number + 7), fps=12.0)
            ffmpeg(
                "-i",
                mp4,
                "-c:v",
                "libvpx-vp9",
                "-deadline",
                "realtime",
                "-crf",
                "20",
                folder / "videos" / f"{number}.webm",
            )
    (folder / "answers.csv").write_text("4;Covering something with something\n")
    return something(folder)


def something(folder: Path, **changes: Any) -> SomethingSomething:
    labels = {split: str(folder / f"{split}.json") for split in ("train", "val", "test")}
    return SomethingSomething(**{"videos": str(folder / "videos"), "labels": labels, **changes})


def test_labels_of_something_something_are_kept(tmp_path: Path) -> None:
    source = write_something(tmp_path)
    answered = something(tmp_path, answers=str(tmp_path / "answers.csv"))
    clip_frames(source=source, folder=str(tmp_path / "set"), **SETTINGS)
    clip_frames(source=answered, folder=str(tmp_path / "answered"), **SETTINGS)
    found = {
        split: [ClipTars(folder=str(tmp_path / "set" / split)).label(row) for row in range(count)]
        for split, count in (("train", 2), ("val", 1), ("test", 1))
    }
    assert found == {
        "train": ["Pushing something from left to right"] * 2,
        "val": ["Covering something with something"],
        "test": [None],
    }
    assert ClipTars(folder=str(tmp_path / "answered" / "test")).label(0) == "Covering something with something"
    train = ClipTars(folder=str(tmp_path / "set" / "train"))
    assert train.row(1)["caption"] == "pushing a pen from left to right"
    assert numbers(train, 1) == [*range(200, 207)]
    # The label is in the tar as well, under a name that every reader of WebDataset keeps.
    with tarfile.open(tmp_path / "set" / "val" / "shard_00000.tar") as tar:
        assert json.loads(tar.extractfile("3.json").read())["label"] == "Covering something with something"  # type: ignore[union-attr]


def test_a_clip_of_train_without_a_class_is_refused(tmp_path: Path) -> None:
    write_something(tmp_path)
    (tmp_path / "train.json").write_text(json.dumps([{"id": "1"}]))
    with pytest.raises(ValueError, match=r"train\.json row 0 has no template"):
        something(tmp_path).clips()


def test_a_table_of_a_folder(tmp_path: Path) -> None:
    write_clip(tmp_path / "videos" / "x.mp4", range(5))
    (tmp_path / "table.jsonl").write_text(
        json.dumps({"id": "x.1", "video": "x.mp4", "split": "val", "label": "jump"}) + "\n"
    )
    source = VideoFolder(folder=str(tmp_path / "videos"), table=str(tmp_path / "table.jsonl"))
    clip_frames(source=source, folder=str(tmp_path / "set"), **SETTINGS)
    media = ClipTars(folder=str(tmp_path / "set" / "val"))
    assert (media.name(0), media.label(0), media.row(0)["caption"]) == ("x.1", "jump", None)


def test_the_built_in_clips_tell_their_direction(tmp_path: Path) -> None:
    from common.shapes_world.dataset import write

    counts = {"train": 6, "val": 0, "test": 2}
    none = {"train": 0, "val": 0, "test": 0}
    write(root=tmp_path / "shapes", clips=counts, edits=none, pairs=none, parts=["captions"], workers=1)
    source = BuiltInClips(root=str(tmp_path / "shapes"))
    clip_frames(source=source, folder=str(tmp_path / "set"), **SETTINGS)
    told = {row["id"]: row for row in read_jsonl(tmp_path / "shapes" / "clips.jsonl")}
    media = ClipTars(folder=str(tmp_path / "set" / "train"))
    assert len(media) == 6
    for row in range(6):
        things = told[media.name(row)]["things"]
        assert media.label(row) == (things[0]["direction"] if len(things) == 1 else None)
        assert media.row(row)["caption"]


# What is left out, and what is refused


def broken(videos: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    write_clip(folder / "good.mp4", range(5))
    write_clip(folder / "short.mp4", range(2))
    (folder / "cut.mp4").write_bytes((videos / "a.mp4").read_bytes()[:300])
    return folder


def test_what_is_left_out_is_listed_up_to_a_limit(videos: Path, tmp_path: Path) -> None:
    folder = broken(videos, tmp_path)
    with pytest.raises(ValueError, match=r"2 of 3 clips give no frames, more than task.max_skipped=0.5"):
        make(folder, tmp_path / "set", sampler=Triplets(), max_skipped=0.5)
    listed = json.loads((tmp_path / "set" / "skipped.json").read_text())
    assert {row["id"]: "no window" in row["skipped"] for row in listed} == {"cut": False, "short": True}
    figures = make(folder, tmp_path / "set", sampler=Triplets(), max_skipped=0.7)
    assert (figures["train"], figures["skipped"], figures["tars made"]) == (1, 2, 0)
    assert numbers(ClipTars(folder=str(tmp_path / "set" / "train")), 0) == [0, 2, 4]


def test_a_clip_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "videos" / "x.mp4", range(3))
    row = json.dumps({"id": "x", "video": "x.mp4"}) + "\n"
    (tmp_path / "table.jsonl").write_text(row + row)
    source = VideoFolder(folder=str(tmp_path / "videos"), table=str(tmp_path / "table.jsonl"))
    with pytest.raises(ValueError, match="2 clips of train are called x"):
        clip_frames(source=source, folder=str(tmp_path / "set"), **SETTINGS)


def test_keys_have_no_dots_and_differ() -> None:
    names = ["a", "a/b", "a.b", "a-b", "a b", "..", "é", "/etc/x", "a/../b"]
    keys = [key_of(name) for name in names]
    assert keys[:2] == ["a", "a/b"]
    assert len({*keys}) == len(names)
    assert not any("." in key or key.startswith("/") for key in keys)


def test_frames_of_a_real_clip(media: Path, tmp_path: Path) -> None:
    videos = sorted((media / "activitynet").glob("*.mp4"))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / videos[0].name).symlink_to(videos[0])
    make(tmp_path / "videos", tmp_path / "set", fps=0.5, max_frames=6, min_change=0.5, size=128)
    clips = ClipTars(folder=str(tmp_path / "set" / "train"))
    told, info = clips.row(0), probe(videos[0])
    assert clips.seconds(0).tolist() == info.seconds[told["numbers"]].tolist()
    stored = clips.show(0, lambda seconds: range(len(seconds))).frames
    fresh = resize_short_side(read(videos[0], told["numbers"]).frames, 128)
    assert stored.shape == fresh.shape
    assert np.abs(stored.astype(int) - fresh).mean() < 3
