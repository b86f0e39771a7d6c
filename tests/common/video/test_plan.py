"""How many frames are shown, known before anything is decoded, and which they are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.video import decode
from common.video.clip import VideoInfo
from common.video.plan import FramesPerSecond, UniformFrames
from common.video.write import write_h264


def info(count: int, fps: float = 10.0) -> VideoInfo:
    return VideoInfo(count, np.arange(count) / fps, fps, 8, 8, "h264", "mp4", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 20 frames at 10 a second, a GIF of 3, a folder of 12 images, one image."""
    where = tmp_path_factory.mktemp("plan")
    frames = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    write_h264(where / "video.mp4", frames, fps=10)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(where / "three.gif", save_all=True, append_images=images[1:3], duration=500)
    (where / "twelve").mkdir()
    for number, image in enumerate(images[:12]):
        image.save(where / "twelve" / f"{number}.png")
    images[0].save(where / "one.png")
    return where


@pytest.mark.parametrize(("name", "count"), [("video.mp4", 5), ("three.gif", 3), ("twelve", 5), ("one.png", 1)])
def test_uniform_takes_as_many_as_it_may(name: str, count: int, folder: Path) -> None:
    plan = UniformFrames(frames=5)
    assert plan.count(folder / name, backend="pyav") == count
    chosen = plan.choose(decode.probe(folder / name), count)
    assert len(set(chosen.tolist())) == count
    assert chosen.tolist() == sorted(chosen.tolist())
    if count > 1:
        assert (chosen[0], chosen[-1]) == (0, decode.probe(folder / name).num_frames - 1)


def test_uniform_counts_a_video_without_opening_it(tmp_path: Path) -> None:
    (tmp_path / "later.mp4").write_bytes(b"")
    assert UniformFrames(frames=5).count(tmp_path / "later.mp4", backend="pyav") == 5


def test_a_list_of_images_is_counted(folder: Path) -> None:
    listed = [folder / "twelve" / f"{number}.png" for number in (3, 1, 2)]
    assert UniformFrames(frames=5).count(listed, backend="pyav") == 3
    assert UniformFrames(frames=2).count(listed, backend="pyav") == 2


def test_too_few_frames_are_not_repeated() -> None:
    with pytest.raises(ValueError, match="5 different frames asked of a clip of 4"):
        UniformFrames(frames=5).choose(info(4), 5)


@pytest.mark.parametrize(
    ("fps", "most", "expected"),
    [(2.0, 99, [0, 5, 10, 15]), (10.0, 99, list(range(20))), (50.0, 99, list(range(20))), (2.0, 3, 3), (0.1, 9, [0])],
)
def test_frames_a_second_are_bounded(fps: float, most: int, expected: list[int] | int, folder: Path) -> None:
    plan = FramesPerSecond(fps=fps, max_frames=most)
    count = plan.count(folder / "video.mp4", backend="pyav")
    chosen = plan.choose(decode.probe(folder / "video.mp4"), count).tolist()
    assert count == len(chosen) == (expected if isinstance(expected, int) else len(expected))
    assert isinstance(expected, int) or chosen == expected
    assert len(set(chosen)) == count


def test_a_file_that_changed_since_it_was_counted_is_told() -> None:
    with pytest.raises(ValueError, match="4 frames were counted, now there are 2: the file has changed"):
        FramesPerSecond(fps=2, max_frames=9).choose(info(10), 4)


def test_numbers_that_show_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="frames=0"):
        UniformFrames(frames=0)
    for fps, most in ((0.0, 5), (1.0, 0)):
        with pytest.raises(ValueError, match="both must be above 0"):
            FramesPerSecond(fps=fps, max_frames=most)


def test_a_plan_names_itself_for_caches() -> None:
    assert repr(UniformFrames(frames=5)) != repr(UniformFrames(frames=6))
    assert repr(FramesPerSecond(fps=1, max_frames=5)) == "FramesPerSecond(fps=1, max_frames=5)"
