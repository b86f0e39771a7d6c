"""Two folders are compared, and the result says what it rests on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.metrics.compare import compare
from tests.common.metrics.scripted import TinyI3d, TinyInception, save


def write(path: Path, seed: int, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, 3)  # one colour
    Image.fromarray(np.full((size, size, 3), values, np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for number in range(25):
        write(tmp_path / "real" / "deep" / f"{number}.png", number)
        write(tmp_path / "generated" / f"{number}.png", 100 + number, size=8 if number < 20 else 12)
    for name, first in (("clips_real", 0), ("clips_generated", 40)):
        for clip in range(5):
            for frame in range(12):
                write(tmp_path / name / f"clip{clip}" / f"{frame}.png", first + clip * 12 + frame)
    return tmp_path


def measured(folder: Path, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "real": str(folder / "real"),
        "generated": str(folder / "generated"),
        "inception": None,
        "inception_sha256": None,
        "i3d": None,
        "i3d_sha256": None,
        "frames": None,
        "batch": 4,
        "device": "cpu",
        "seed": 0,
        "out": str(folder / "out" / "metrics.json"),
    }
    return compare(**(options | changes))


def test_pictures(folders: Path) -> None:
    path = save(TinyInception(), folders / "inception.pt")
    result = measured(folders, inception=str(path))
    pictures = result["pictures"]
    assert pictures["counts"] == {"real": 25, "generated": 25}
    assert pictures["fid"] > 0
    assert pictures["kid"]["samples"] == 25
    assert 1 < pictures["inception_score"]["value"] < 3
    assert len(pictures["sha256"]) == 64
    assert "fid of 25 real and 25 generated samples is biased" in result["notes"][0]
    told = json.loads((folders / "out" / "metrics.json").read_text())
    assert told["pictures"] == pictures
    assert told["notes"] == result["notes"]
    assert measured(folders, inception=str(path), batch=25)["pictures"]["fid"] == pytest.approx(pictures["fid"])
    same = measured(folders, inception=str(path), generated=str(folders / "real"))
    assert same["pictures"]["fid"] == pytest.approx(0, abs=1e-9)


def test_few_pictures_have_no_inception_score_and_the_result_says_so(folders: Path) -> None:
    path = save(TinyInception(), folders / "inception.pt")
    result = measured(folders, inception=str(path), generated=str(folders / "clips_generated" / "clip0"))
    assert "inception_score" not in result["pictures"]
    assert "no inception_score: 12 generated pictures" in result["notes"][1]


def test_clips(folders: Path) -> None:
    path = save(TinyI3d(), folders / "i3d.pt")
    where = {"real": str(folders / "clips_real"), "generated": str(folders / "clips_generated"), "i3d": str(path)}
    result = measured(folders, **where, frames=10)
    assert result["clips"]["counts"] == {"real": 5, "generated": 5}
    assert result["clips"]["frames"] == 10
    assert result["clips"]["fvd"] > 0
    assert measured(folders, **where)["clips"]["frames"] == 12
    write(folders / "clips_real" / "clip0" / "12.png", 0)
    with pytest.raises(ValueError, match=r"clips of 12 and 13 frames: set task\.frames"):
        measured(folders, **where)


def test_what_cannot_be_compared_is_named(folders: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.inception=FILE .* task\.i3d=FILE"):
        measured(folders)
    path = str(save(TinyInception(), folders / "inception.pt"))
    with pytest.raises(ValueError, match=r"out holds no pictures"):
        measured(folders, inception=path, real=str(folders / "out"))
    with pytest.raises(ValueError, match=r"absent holds no clips"):
        measured(folders, i3d=str(save(TinyI3d(), folders / "i3d.pt")), real=str(folders / "absent"))
