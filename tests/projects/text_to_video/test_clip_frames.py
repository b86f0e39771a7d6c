"""Frames of a clip: the nearest in time, as many as there are, one size, the aspect ratio kept."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.video.clip import VideoInfo, VideoReadError
from common.video.decode import probe, read
from common.video.write import encode_h264
from projects.text_to_video.clip_frames import Crop, available, clip_frames, length, numbers


def info(seconds: list[float]) -> VideoInfo:
    fps = (len(seconds) - 1) / seconds[-1] if len(seconds) > 1 else 0.0
    return VideoInfo(len(seconds), np.array(seconds), fps, 8, 8, "h264", "mp4", 0)


def at_rate(fps: float, count: int, *, tick: float = 0.0) -> VideoInfo:
    times = [number / fps for number in range(count)]
    return info([round(time / tick) * tick if tick else time for time in times])


@pytest.mark.parametrize(
    ("source", "count", "frames"),
    [(16.0, 64, 64), (24.0, 96, 64), (24.0, 95, 64), (30.0, 120, 64), (30.0, 96, 52), (8.0, 16, 32), (60.0, 30, 8)],
)
def test_as_many_frames_as_fit_into_the_clip(source: float, count: int, frames: int) -> None:
    assert len(numbers(at_rate(source, count), fps=16.0, frames=64)) == frames


@pytest.mark.parametrize("source", [12.0, 23.976, 29.97])
def test_a_clock_of_milliseconds_loses_no_frame_and_adds_none(source: float) -> None:
    """WebM rounds times to milliseconds."""
    for seconds in (2.0, 3.0, 4.0):
        count = round(source * seconds)
        exact = available(length(at_rate(source, count)), 16.0)
        assert available(length(at_rate(source, count, tick=1e-3)), 16.0) == exact


def test_frames_are_the_nearest_in_time() -> None:
    assert numbers(at_rate(24.0, 96), fps=16.0, frames=6).tolist() == [0, 1, 3, 4, 6, 7]
    uneven = info([0.0, 0.1, 0.2, 0.9, 1.0, 1.1])
    assert numbers(uneven, fps=4.0, frames=9).tolist() == [0, 2, 2, 3, 4, 5]


def test_a_slow_source_repeats_frames() -> None:
    assert numbers(at_rate(8.0, 16), fps=16.0, frames=6).tolist() == [0, 0, 1, 1, 2, 2]


def test_one_picture_is_one_frame() -> None:
    assert numbers(info([0.0]), fps=16.0, frames=64).tolist() == [0]


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """32 frames of 48 x 96 at 8 a second: grey by frame, a white square in the middle, red at the sides."""
    frames = np.empty((32, 48, 96, 3), np.uint8)
    frames[:] = np.arange(0, 128, 4, dtype=np.uint8)[:, None, None, None]
    frames[:, :, :16] = frames[:, :, -16:] = (255, 0, 0)
    frames[:, 16:32, 40:56] = 255
    path = tmp_path / "wide.mp4"
    path.write_bytes(encode_h264(frames, fps=8.0, crf=0))
    return path


def shown(path: Path, *, frames: int = 8, fps: float = 8.0, size: tuple[int, int] = (24, 24), crop: Crop = "centre"):
    return clip_frames(path, fps=fps, frames=frames, size=size, crop=crop, backend="pyav")


def test_frames_have_the_size_and_their_own_times(wide: Path) -> None:
    frames = shown(wide, frames=4, fps=4.0)
    assert frames.dtype == torch.uint8
    assert frames.shape == (4, 3, 24, 24)
    greys = frames[:, :, 0, 12].float().mean(1)
    torch.testing.assert_close(greys, torch.tensor([0.0, 8.0, 16.0, 24.0]), atol=3, rtol=0)


def test_the_middle_is_kept_with_its_aspect_ratio(wide: Path) -> None:
    white = (shown(wide)[0].float().mean(0) > 200).nonzero()
    assert (white.max(0).values - white.min(0).values).tolist() == [7, 7]  # 16 of 48 lines become 8 of 24, both ways
    squashed = (shown(wide, crop="squash")[0].float().amin(0) > 200).nonzero()
    assert (squashed.max(0).values - squashed.min(0).values).tolist() == [7, 3]


def test_the_crop_leaves_out_the_sides_and_the_squash_does_not(wide: Path) -> None:
    def red(crop: Crop) -> float:
        frame = shown(wide, crop=crop)[0].float()
        return float(((frame[0] > 150) & (frame[1] < 100)).float().mean())

    assert red("centre") == 0.0
    assert red("squash") > 0.25


def test_sizes_of_other_aspect_ratios_are_covered(wide: Path) -> None:
    assert shown(wide, size=(40, 16)).shape == (8, 3, 40, 16)
    assert shown(wide, size=(8, 64)).shape == (8, 3, 8, 64)


def test_a_short_clip_gives_what_it_has(wide: Path) -> None:
    frames = shown(wide, frames=64)
    assert len(frames) == 32
    assert frames[-1].any()


def test_a_damaged_clip_is_an_error(wide: Path) -> None:
    wide.write_bytes(wide.read_bytes()[:500])
    with pytest.raises(VideoReadError):
        shown(wide)


def test_real_clips_by_time(media: Path) -> None:
    """Also of 3 frames a second, of a variable clock, and in VP9."""
    for name in ("conversations/clip_vp9.webm", "conversations/3.mp4", "activitynet/v_rBMQFpHspmo.mp4"):
        path, found = media / name, probe(media / name)
        clip = read(path, numbers(found, fps=16.0, frames=24))
        assert np.abs(clip.seconds - np.arange(24) / 16).max() <= 0.51 / found.fps
        assert shown(path, frames=24, fps=16.0, size=(32, 56)).shape == (24, 3, 32, 56)
