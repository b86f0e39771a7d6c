"""Real clips as the model sees them, and generated ones, go into FVD as they are written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.files import write_jsonl
from common.metrics.compare import compare
from common.video.decode import read
from common.video.write import write_h264
from projects.text_to_video.output import write_clip
from projects.text_to_video.reference_clips import reference_clips
from tests.common.metrics.scripted import TinyI3d, save

LENGTHS = {"a": 24, "b": 12, "c": 24, "d": 24}  # frames at 12 a second


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, frames in LENGTHS.items():
        (tmp_path / "videos").mkdir(exist_ok=True)
        write_h264(tmp_path / "videos" / f"{name}.mp4", rng.integers(0, 256, (frames, 32, 48, 3), np.uint8), fps=12)
    rows = [{"id": f"v/{name}", "video": f"videos/{name}.mp4", "caption": "noise"} for name in LENGTHS]
    (tmp_path / "captions").mkdir()
    write_jsonl(tmp_path / "captions" / "test.jsonl", rows)
    return tmp_path / "captions"


def written(captions: Path, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "table": str(captions),
        "media": None,
        "split": "test",
        "count": 3,
        "folder": str(captions.parent / "real"),
        "frames": 12,
        "fps": 8.0,
        "size": [16, 16],
        "crop": "centre",
        "backend": "pyav",
    }
    return reference_clips(**(options | changes))


def test_clips_are_written_as_the_model_sees_them_and_short_ones_left_out(captions: Path) -> None:
    found = written(captions)
    assert {key: found[key] for key in ("clips", "written", "short", "unreadable")} == {
        "clips": 3,
        "written": 3,
        "short": 1,
        "unreadable": 0,
    }
    folder = captions.parent / "real"
    assert sorted(path.name for path in folder.glob("*.mp4")) == ["v-a.mp4", "v-c.mp4", "v-d.mp4"]
    clip = read(folder / "v-a.mp4", range(12))
    assert clip.frames.shape == (12, 16, 16, 3)
    assert written(captions)["written"] == 0  # what is there stays


def test_what_cannot_be_written_is_named(captions: Path) -> None:
    with pytest.raises(ValueError, match=r"split test has 3 clips of 12 frames .*1 are shorter.*task\.count=4"):
        written(captions, count=4)
    with pytest.raises(ValueError, match=r"fps=8\.0 \(not 16\.0\); name another task\.folder"):
        written(captions, fps=16.0)


def test_fvd_takes_them_beside_what_generate_writes(captions: Path) -> None:
    real, generated = written(captions)["folder"], captions.parent / "generated"
    for number in range(4):
        clip = torch.full((12, 3, 16, 16), 50 * number, dtype=torch.uint8)
        write_clip(generated, f"row {number}", clip, fps=8.0)  # an MP4 and a GIF of each
    result = compare(
        real=real,
        generated=str(generated),
        inception=None,
        inception_sha256=None,
        i3d=str(save(TinyI3d(), captions.parent / "i3d.pt")),
        i3d_sha256=None,
        frames=None,
        batch=2,
        device="cpu",
        seed=0,
        out=str(captions.parent / "metrics.json"),
    )
    assert result["clips"]["counts"] == {"real": 3, "generated": 4}  # a GIF is no second clip
    assert result["clips"]["frames"] == 12
    assert result["clips"]["fvd"] > 0
