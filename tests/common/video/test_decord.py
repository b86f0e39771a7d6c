"""decord: right on clean files, and refused, with the reason, on each file where it would not be."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from common.video import decord as guarded
from common.video.decode import VideoReadError, probe, read
from common.video.sample import uniform
from tests.common.video import files
from tests.common.video.files import Made, number_of

installed = pytest.mark.skipif(find_spec("decord") is None, reason="decord has no wheel for this machine")

CLEAN = [
    "ordinary.mp4",
    "gop250.mp4",
    "sound.mp4",
    "cut_to_zero.mp4",
    "variable_rate.mp4",
    "rate_change.mp4",
    "fragmented.mp4",
    "copied.mkv",
    "vp9.webm",
    "rotated_90.mp4",
    "rotated_180.mp4",
    "rotated_270.mp4",
    "portrait.mp4",
    "odd_size.mp4",
    "one_frame.mp4",
]
REFUSED = {
    "cut_gop250.mp4": "hidden packets",
    "cut_gop30.mp4": "hidden packets",
    "cut_sound.mp4": "hidden packets",
    "b_frames.avi": "containers such as avi",
    "no_b_frames.avi": "containers such as avi",
    "h264.avi": "containers such as avi",
    "copied.ts": "containers such as mpegts",
    "intra_refresh.ts": "containers such as mpegts",
    "program.mpg": "containers such as mpeg",
    "cut_hevc.mkv": "hidden packets",
    "midway.ts": "containers such as mpegts",
    "raw.h264": "containers such as h264",
    "av1.mp4": "cannot decode av1",
    "mirrored.mp4": "mirrored",
    "open_gop.mp4": "open groups",
    "hevc.mp4": "open groups",
    "mpeg4.mp4": "open groups",
}


@installed
@pytest.mark.parametrize("name", CLEAN)
def test_clean_files_are_bit_identical_at_native_size(name: str, made: dict[str, Made]) -> None:
    if name not in made:
        pytest.skip(f"this FFmpeg has no encoder {files.GOOD[name][0]}")
    path, numbers = made[name]
    asked = [*uniform(len(numbers), min(9, len(numbers))).tolist()[::-1], 0]
    theirs, ours = read(path, asked, backend="decord"), read(path, asked)
    np.testing.assert_array_equal(theirs.frames, ours.frames)
    np.testing.assert_array_equal(theirs.seconds, ours.seconds)
    assert [number_of(frame) for frame in theirs.frames] == [numbers[i] for i in asked]


@installed
def test_ten_bits_are_the_same_frames(made: dict[str, Made]) -> None:
    clip = read(made["ten_bit.mp4"].path, [30, 3], backend="decord")
    assert [number_of(frame) for frame in clip.frames] == [30, 3]


@installed
@pytest.mark.parametrize("name", REFUSED)
def test_awkward_files_are_refused_with_reason_and_remedy(name: str, made: dict[str, Made]) -> None:
    if name not in made:
        pytest.skip(f"this FFmpeg has no encoder {files.GOOD[name][0]}")
    for attempt in (probe, lambda path, backend: read(path, [0], backend=backend)):
        with pytest.raises(VideoReadError, match=rf"{REFUSED[name]}.*; read it with video=pyav") as caught:
            attempt(made[name].path, backend="decord")
        assert caught.value.path == str(made[name].path)


@installed
@pytest.mark.parametrize("name", sorted(files.GOOD.keys() - {"mirrored.mp4"}))  # its numbers are not readable
def test_no_file_gives_a_wrong_frame(name: str, made: dict[str, Made]) -> None:
    if name not in made:
        pytest.skip(f"this FFmpeg has no encoder {files.GOOD[name][0]}")
    path, numbers = made[name]
    for asked in ([len(numbers) - 1], list(range(0, len(numbers), 7))):
        try:
            frames = read(path, asked, backend="decord").frames
        except VideoReadError:
            continue
        assert [number_of(frame) for frame in frames] == [numbers[i] for i in asked]


@installed
def test_a_truncated_file_is_refused(clean: Path, tmp_path: Path) -> None:
    files.cut_off(clean, tmp_path / "truncated.mp4", 0.7)
    with pytest.raises(VideoReadError, match=r"cut off, \d+ packets are missing"):
        read(tmp_path / "truncated.mp4", [0], backend="decord")


@installed
def test_repeats_in_place_of_frames_are_an_error(made: dict[str, Made], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "refusal", lambda found: None)
    with pytest.raises(VideoReadError, match="repeats in the place of frames; read it with video=pyav"):
        guarded.read(made["open_gop.mp4"].path, np.arange(0, 90, 8), 90)


@installed
def test_another_count_of_frames_is_an_error(clean: Path) -> None:
    with pytest.raises(VideoReadError, match="decord counts 90 frames where 89 are shown"):
        guarded.read(clean, np.array([0]), 89)


@installed
def test_real_clips_are_bit_identical(media: Path) -> None:
    for name in ("1.mp4", "3.mp4", "4.mp4", "hiker_tiny.mp4", "short_720p_96_frames.mp4"):
        path = media / "conversations" / name
        ours = read(path, lambda info: uniform(info.num_frames, 6))
        np.testing.assert_array_equal(read(path, ours.indices, backend="decord").frames, ours.frames)


@installed
def test_broken_files_and_bad_indices_are_the_same_errors(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "page.mp4").write_text("<html></html>")
    with pytest.raises(VideoReadError, match="is text"):
        read(tmp_path / "page.mp4", [0], backend="decord")
    with pytest.raises(VideoReadError, match="frame 90 asked for"):
        read(clean, [90], backend="decord")


def test_without_its_wheel_the_remedy_is_named(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "find_spec", lambda name: None)
    for attempt in (probe, lambda path, backend: read(path, [0], backend=backend)):
        with pytest.raises(ValueError, match=r"not installed here.*x86-64 only.*video=pyav") as caught:
            attempt(clean, backend="decord")
        assert not isinstance(caught.value, VideoReadError)  # the setting is wrong, not the file
