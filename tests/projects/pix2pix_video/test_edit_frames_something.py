"""Sets from webm clips with official label files: tasks by template, frames at 12 a second, work that goes on."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from projects.pix2pix_video.edit_check import check_edit_frames
from projects.pix2pix_video.edit_frames import make_edit_frames
from projects.pix2pix_video.frames import EditFrames
from projects.pix2pix_video.sources import extract
from projects.pix2pix_video.sources.something import SomethingSomething
from tests.projects.pix2pix_video.edit_sources import SETTINGS, content, shown_in, write_webm

PUSH, COVER, DROP = (
    "Pushing [something] from left to right",
    "Covering [something] with [something]",
    "Dropping [something] onto [something]",
)
TEMPLATES = {"move_object": [PUSH], "cover_object": [COVER], "drop_object": [DROP]}
LABELS = {
    "train": [(11, "pushing a cup from left to right", PUSH), (12, "covering a key with cloth", COVER)],
    "val": [(21, "dropping a pen onto a book", DROP), (22, "tearing paper", "Tearing [something] into two pieces")],
}


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("something")
    for name, count, fps in ((11, 14, 12), (12, 9, 12), (21, 18, 24)):
        write_webm(folder / "videos" / f"{name}.webm", count, fps)
    for split, rows in LABELS.items():
        named = [{"id": str(i), "label": label, "template": text, "placeholders": []} for i, label, text in rows]
        (folder / f"{split}.json").write_text(json.dumps(named))
    return folder


@pytest.fixture
def folder(downloads: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(downloads, tmp_path / "something"))


def source(folder: Path, **changes: Any) -> SomethingSomething:
    settings: dict[str, Any] = {
        "videos": str(folder / "videos"),
        "labels": {split: str(folder / f"{split}.json") for split in LABELS},
        "frames": str(folder / "frames"),
        "templates": TEMPLATES,
        "suffix": "png",
    }
    return SomethingSomething(**{**settings, **changes})


def make(folder: Path, name: str = "set", given: SomethingSomething | None = None, **changes: Any) -> dict[str, Any]:
    settings = {**SETTINGS, "history": 4, "gap": 2, "anchor": "start", **changes}
    return make_edit_frames(source=given or source(folder), folder=str(folder / name), **settings)


def rows(folder: Path, split: str, name: str = "set") -> EditFrames:
    return EditFrames(folder=str(folder / name), split=split, size=64, history=None)


def test_templates_become_tasks_and_labels_instructions(folder: Path) -> None:
    assert make(folder) == {"train": 2, "val": 1, "clips": 3, "skipped": 0}
    told = [(row.id, row.task, row.instruction) for row in rows(folder, "train").rows]
    assert told == [
        ("train/move_object/11", "move_object", "pushing a cup from left to right"),
        ("train/cover_object/12", "cover_object", "covering a key with cloth"),
    ]
    assert [row.task for row in rows(folder, "val").rows] == ["drop_object"]


def test_frames_are_counted_at_twelve_a_second(folder: Path) -> None:
    make(folder)
    for split, expected in (("train", [0, 1, 2, 3, 5]), ("val", [0, 2, 4, 6, 10])):  # the second clip has 24 a second
        row = rows(folder, split).rows[0]
        assert [shown_in(folder / "frames" / file) for file in (*row.history, row.target)] == expected
    assert [path.name for path in sorted((folder / "frames" / "21").glob("*.png"))] == [
        f"{number:04d}.png" for number in (0, 1, 2, 3, 5)
    ]


def test_windows_slide_and_the_end_can_be_the_anchor(folder: Path) -> None:
    assert make(folder, step=3)["train"] == 3 + 2
    assert [row.id for row in rows(folder, "train").rows][:2] == [
        "train/move_object/11/0000",
        "train/move_object/11/0003",
    ]
    shutil.rmtree(folder / "frames")
    make(folder, "end", anchor="end", stride=3, history=2)
    row = rows(folder, "train", "end").rows[0]
    assert [shown_in(folder / "frames" / file) for file in (*row.history, row.target)] == [8, 11, 13]


def test_set_and_frames_pass_the_check_and_can_be_moved(folder: Path, tmp_path: Path) -> None:
    make(folder, given=source(folder, suffix="jpg"))
    pixels = rows(folder, "train").pixels(0)
    shutil.move(folder, tmp_path / "moved")
    assert rows(tmp_path / "moved", "train").pixels(0).equal(pixels)
    figures = check_edit_frames(
        folder=str(tmp_path / "moved" / "set"), media=None, report=str(tmp_path / "report.jsonl"), workers=1
    )
    assert figures == {"train": 2, "val": 1, "images": 12}


def test_a_killed_extraction_goes_on_and_ends_with_the_same_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shutil.copytree(folder, folder.parent / "whole"))
    make(whole)
    done: list[str] = []
    read = extract.read

    def killed(path: Path, *arguments: Any, **keywords: Any) -> Any:
        if len(done) == 2:
            half = folder / "frames" / ".21.0123abcd.part"  # SIGKILL: nobody tidies up
            half.mkdir()
            (half / "0000.png").write_bytes(b"half")
            raise KeyboardInterrupt
        done.append(path.stem)
        return read(path, *arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(extract, "read", killed)
        with pytest.raises(KeyboardInterrupt):
            make(folder)
    assert not (folder / "set").exists()
    assert sorted(path.name for path in (folder / "frames").iterdir()) == [
        ".21.0123abcd.part",
        "11",
        "12",
        "settings.json",
    ]
    again: list[str] = []

    def counted(path: Path, *arguments: Any, **keywords: Any) -> Any:
        again.append(path.stem)
        return read(path, *arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(extract, "read", counted)
        make(folder)
    assert again == ["21"]
    assert content(folder / "frames") == content(whole / "frames")
    assert rows(folder, "train").fingerprint == rows(whole, "train").fingerprint


def test_frames_do_not_depend_on_the_number_of_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path(shutil.copytree(folder, folder.parent / "whole"))
    make(whole)
    monkeypatch.setattr("common.processes.FEW", 1)
    make(folder, workers=2)
    assert content(folder / "frames") == content(whole / "frames")


def test_a_clip_that_was_replaced_is_read_anew(folder: Path) -> None:
    make(folder)
    shutil.copy(folder / "videos" / "12.webm", folder / "videos" / "11.webm")
    make(folder, "second")
    assert json.loads((folder / "frames" / "11" / "clip.json").read_text())["frames"] == 9


def test_other_frames_in_the_same_folder_are_an_error(folder: Path) -> None:
    make(folder)
    for changes in ({"history": 3}, {"given": source(folder, fps=6.0)}, {"given": source(folder, suffix="jpg")}):
        with pytest.raises(ValueError, match="holds frames that were taken otherwise; remove it"):
            make(folder, "second", **changes)


@pytest.mark.parametrize("kind", ["lost", "cut off", "short", "slow"])
def test_a_bad_clip_is_left_out_and_listed(kind: str, folder: Path) -> None:
    clip = folder / "videos" / "12.webm"
    if kind == "lost":
        clip.unlink()
    elif kind == "cut off":
        clip.write_bytes(clip.read_bytes()[:300])
    else:
        write_webm(clip, 5 if kind == "short" else 9, 12 if kind == "short" else 8)
    with pytest.raises(ValueError, match=r"1 of 3 clips are left out, more than task.max_skipped=0.0"):
        make(folder)
    assert make(folder, max_skipped=0.4) == {"train": 1, "val": 1, "clips": 3, "skipped": 1}
    (left_out,) = json.loads((folder / "set" / "skipped.json").read_text())
    reason = {
        "lost": "no such file",
        "cut off": "",
        "short": "has 5 frames, a window takes 6",
        "slow": "(8.00 a second) lie too far apart for 12",
    }
    assert left_out["id"] == "12"
    assert left_out["file"] == "12.webm"
    assert reason[kind] in left_out["reason"]


def test_a_few_clips_a_task_by_seed(folder: Path) -> None:
    named = [{"id": str(number), "label": "push it", "template": PUSH} for number in range(40)]
    (folder / "train.json").write_text(json.dumps(named))
    (folder / "val.json").write_text("[]")

    def drawn(**changes: Any) -> list[str]:
        found = source(folder, templates={"move_object": [PUSH]}, per_task=5, **changes)
        return [clip.id for clip in found._clips]

    assert len(drawn()) == 5
    assert drawn() == drawn() != drawn(seed=1)
    (folder / "train.json").write_text(json.dumps(named[::-1]))
    assert set(drawn()) == set(drawn())


def test_what_does_not_fit_is_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="is one of move_object and of other; keep one"):
        source(folder, templates={**TEMPLATES, "other": [PUSH.replace("[", "").replace("]", "")]})
    with pytest.raises(ValueError, match="needs train, and may name val and test"):
        source(folder, labels={"validation": "x"})
    with pytest.raises(ValueError, match="per_task=0"):
        source(folder, per_task=0)
    with pytest.raises(ValueError, match="no clip has a template of swim_object"):
        make(folder, given=source(folder, templates={**TEMPLATES, "swim_object": ["Swimming"]}))
    with caplog.at_level(logging.WARNING):
        make(folder, given=source(folder, templates={**TEMPLATES, "drop_object": [DROP, "Letting it fall"]}))
    assert "no clip has the template 'letting it fall'" in caplog.text
    (folder / "test.json").write_text('[{"id": "31"}]')
    labels = {split: str(folder / f"{split}.json") for split in ("train", "val", "test")}
    with pytest.raises(ValueError, match=r"has no template, as in the official test file; .*'task.merge=\[test\]'"):
        make(folder, "third", given=source(folder, labels=labels))
    (folder / "val.json").write_text((folder / "train.json").read_text())
    with pytest.raises(ValueError, match="clip 11 is in train and in val"):
        make(folder, "fourth", given=source(folder, templates={"move_object": [PUSH]}))
