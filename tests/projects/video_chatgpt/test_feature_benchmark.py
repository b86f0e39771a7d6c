"""The benchmark of the feature task: its figures, and that it refuses to compare different features."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.encoders.clip import ClipPatches
from common.video.decode import probe
from projects.video_chatgpt.benchmark_clips import MovingClips
from projects.video_chatgpt.feature_benchmark import feature_benchmark
from projects.video_chatgpt.features import extract
from projects.video_chatgpt.plain_features import PlainLoop

CLIP = str(Path(__file__).resolve().parents[3] / "common" / "tiny" / "weights" / "clip")
TASK = partial(
    extract,
    encoder=partial(ClipPatches, weights=CLIP),
    temporal=6,
    backend="pyav",
    shard_size=2,
    clips_at_once=1,
    max_failed=0.0,
    num_workers=1,
    devices="cpu",
)
LOOP = partial(PlainLoop, weights=CLIP, dtype="float32", temporal=6, devices="cpu")
DRAW = MovingClips(seconds=0.5, height=72, width=96, fps=20, seed=0)


def run(root: Path, **changes: Any) -> dict[str, float]:
    arguments = {"folder": None, "clips": 3, "rounds": 2, "draw": DRAW, "features": TASK} | changes
    return feature_benchmark(root=str(root), plain=arguments.pop("plain", partial(LOOP, reader="pyav")), **arguments)


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_both_sides_over_the_same_clips(reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec(reader if reader == "decord" else "av") is None:
        pytest.skip("decord has no wheel for this machine")
    figures = run(tmp_path, plain=partial(LOOP, reader=reader))
    assert figures["clips"] == 3
    assert 0 < figures["ratio_least"] <= figures["ratio"] <= figures["ratio_most"]
    assert figures["task_clips_per_second"] > 0
    assert figures["plain_clips_per_second"] > 0
    assert f"plain loop ({reader})" in capsys.readouterr().out
    (kept,) = tmp_path.iterdir()  # the clips; what was written while timing is gone
    assert kept.name == "3_of_0.5s_96x72_20fps_seed0"


def test_clips_are_as_asked_and_made_once(tmp_path: Path) -> None:
    folder = DRAW.make(tmp_path, count=2)
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*.mp4")}
    assert len(made) == 2
    for path in made:
        info = probe(path)
        assert (info.num_frames, info.height, info.width, info.fps) == (10, 72, 96, 20)
    assert DRAW.make(tmp_path, count=2) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.mp4")} == made


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    folder = DRAW.make(tmp_path / "mine", count=3)
    assert run(tmp_path / "root", folder=str(folder.parent), clips=2, rounds=1)["clips"] == 2
    with pytest.raises(ValueError, match="holds no video"):
        run(tmp_path, folder=str(tmp_path / "root"))


def test_other_features_are_an_error(tmp_path: Path) -> None:
    class Other(PlainLoop):
        def __call__(self, path: Path) -> NDArray[np.float16]:
            features = super().__call__(path)
            features[1, 5] += np.float16(0.1)
            return features

    with pytest.raises(ValueError, match=r"000\.mp4: the features .* differ by 0\.1"):
        run(tmp_path, plain=partial(Other, weights=CLIP, dtype="float32", temporal=6, reader="pyav", devices="cpu"))


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither may be 0"):
        run(tmp_path, rounds=0)
    with pytest.raises(ValueError, match="not one of auto, decord, pyav"):
        run(tmp_path, plain=partial(LOOP, reader="opencv"))
