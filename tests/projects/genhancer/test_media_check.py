"""Rows that cannot be read: listed once, left out afterwards, and an error where nobody looked."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.types import Pick
from common.video.clip import VideoReadError
from projects.genhancer.media import ImageFolder
from projects.genhancer.media_check import media_check
from tests.projects.genhancer.small_clips import images, write_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures, of which one is cut off and one is none."""
    write_images(tmp_path / "images", 5)
    cut = tmp_path / "images" / "0001.png"
    cut.write_bytes(cut.read_bytes()[:100])
    (tmp_path / "images" / "0003.png").write_text("no picture")
    return tmp_path / "images"


def check(folder: Path, **changes: Any) -> dict[str, int]:
    arguments: dict[str, Any] = {
        "media": {"train": partial(ImageFolder, folder=str(folder))},
        "listed": str(folder.parent / "listed"),
        "max_unreadable": 0.5,
        "num_workers": 0,
    }
    return media_check(**{**arguments, **changes})


def test_what_cannot_be_read_is_listed_and_left_out(folder: Path) -> None:
    assert check(folder) == {"train": 5, "train unreadable": 2}
    rows = images(folder, unreadable=str(folder.parent / "listed" / "train.json"))
    assert [rows.name(row) for row in range(len(rows))] == ["0000.png", "0002.png", "0004.png"]
    for row in range(3):
        rows[Pick(row, row, 1.0)]


def test_without_a_list_it_is_an_error_that_names_the_file(folder: Path) -> None:
    with pytest.raises(VideoReadError, match=r"0001\.png: damaged image"):
        images(folder)[Pick(1, 0, 1.0)]


def test_a_second_call_looks_at_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(folder, num_workers=2)
    monkeypatch.setattr(ImageFolder, "show", None)
    assert check(folder)["train unreadable"] == 2


def test_too_many_are_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"2 of 5 rows of train cannot be read.*0\.1; see .*train\.json"):
        check(folder, max_unreadable=0.1)


def test_a_list_of_other_rows_is_refused(folder: Path) -> None:
    check(folder)
    (folder / "0004.png").unlink()
    with pytest.raises(ValueError, match="a list of other rows"):
        images(folder, unreadable=str(folder.parent / "listed" / "train.json"))
    with pytest.raises(ValueError, match="is not there; make it with"):
        images(folder, unreadable=str(folder / "none.json"))
