"""The decoder suite: every frame that comes back is the one that was asked for."""

import random
from pathlib import Path

import numpy as np
import pytest

from common.video import pyav
from common.video.decode import VideoReadError, probe, read
from common.video.sample import uniform
from tests.common.video import files
from tests.common.video.files import GOOD, Made, number_of

MADE_FROM = {"cut_gop250.mp4": 93, "cut_gop30.mp4": 75, "cut_sound.mp4": 99, "cut_to_zero.mp4": 60}


def the(name: str, made: dict[str, Made]) -> Made:
    if name not in made:
        pytest.skip(f"this FFmpeg has no encoder {GOOD[name][0]}")
    return made[name]


def test_nothing_wrong_and_nothing_missing_in_any_file(made: dict[str, Made]) -> None:
    frames = reads = 0
    for name, file in made.items():
        count = probe(file.path).num_frames
        assert count == len(file.numbers), name
        chance = random.Random(name)
        for asked in (range(count), uniform(count, min(count, 5)), chance.choices(range(count), k=7)):
            clip = read(file.path, asked)
            seen = [number_of(frame) for frame in clip.frames]
            assert seen == [file.numbers[i] for i in asked], name
            assert (clip.bad_packets, clip.corrupt_frames) == (0, 0), name
            frames, reads = frames + len(seen), reads + 1
    without_encoder = {encoder for encoder, _ in GOOD.values() if encoder} - files.encoders()
    assert len(GOOD) == 36
    assert len(made) == 36 or without_encoder, f"{len(made)} of 36 files were made"
    assert reads == 3 * len(made)
    assert frames > 80 * len(made)


@pytest.mark.parametrize("name", GOOD)
def test_single_frames_agree_with_the_whole(name: str, made: dict[str, Made]) -> None:
    path, numbers = the(name, made)
    whole = read(path, range(len(numbers)))
    for i in {0, len(numbers) // 3, len(numbers) // 2, len(numbers) - 1}:
        alone = read(path, [i])
        np.testing.assert_array_equal(alone.frames[0], whole.frames[i])
        assert alone.seconds[0] == whole.seconds[i]


@pytest.mark.parametrize(("name", "first"), MADE_FROM.items())
def test_cuts_show_what_lies_after_the_cut(name: str, first: int, made: dict[str, Made]) -> None:
    path, numbers = the(name, made)
    assert numbers == list(range(first, 200))
    assert number_of(read(path, [0]).frames[0]) == first


def test_order_and_repeats_are_kept(made: dict[str, Made]) -> None:
    clip = read(made["ordinary.mp4"].path, [150, 3, 3, 70, 150])
    assert [number_of(frame) for frame in clip.frames] == [150, 3, 3, 70, 150]
    assert clip.indices.tolist() == [150, 3, 3, 70, 150]
    assert clip.frames.shape == (5, 64, 96, 3)
    assert clip.frames.dtype == np.uint8
    np.testing.assert_allclose(clip.seconds, np.array([150, 3, 3, 70, 150]) / 30, atol=1e-9)


def test_indices_may_be_a_function_of_the_facts(made: dict[str, Made]) -> None:
    clip = read(made["cut_gop30.mp4"].path, lambda info: [info.num_frames - 1])
    assert number_of(clip.frames[0]) == 199


def test_times_of_a_variable_rate(made: dict[str, Made]) -> None:
    info = probe(made["variable_rate.mp4"].path)
    n = np.arange(90)
    np.testing.assert_allclose(info.seconds, (n * 40 + n % 7 * 5) / 1000, atol=1e-6)
    assert info.fps == pytest.approx(89 / info.seconds[-1])


def test_times_of_a_rate_change(made: dict[str, Made]) -> None:
    seconds = probe(made["rate_change.mp4"].path).seconds
    assert (seconds[44], seconds[45], seconds[89]) == pytest.approx((1.76, 1.8, 6.2))


@pytest.mark.parametrize("name", ["fragmented.mp4", "copied.ts", "cut_gop250.mp4", "h264.avi", "program.mpg"])
def test_time_starts_at_zero_and_rises(name: str, made: dict[str, Made]) -> None:
    info = probe(made[name].path)
    assert info.seconds[0] == 0
    assert (np.diff(info.seconds) > 0).all()
    assert info.fps == pytest.approx(30, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "size", "rotation"),
    [
        ("ordinary.mp4", (64, 96), 0),
        ("rotated_90.mp4", (64, 96), 90),
        ("rotated_180.mp4", (64, 96), 180),
        ("rotated_270.mp4", (64, 96), 270),
        ("portrait.mp4", (96, 64), 0),
        ("odd_size.mp4", (65, 99), 0),
    ],
)
def test_size_is_that_of_the_upright_picture(
    name: str, size: tuple[int, int], rotation: int, made: dict[str, Made]
) -> None:
    info = probe(made[name].path)
    assert (info.height, info.width, info.rotation) == (*size, rotation)
    assert read(made[name].path, [0]).frames.shape[1:3] == size


def test_a_mirror_in_the_display_matrix_is_applied_as_ffmpeg_does(made: dict[str, Made]) -> None:
    path = the("mirrored.mp4", made).path
    shown = files.ffmpeg("-i", path, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    picture = np.frombuffer(shown, np.uint8).reshape(64, 96, 3)
    assert np.abs(read(path, [0]).frames[0].astype(int) - picture).mean() < 3
    assert np.abs(read(path, [0]).frames[0, :, ::-1].astype(int) - picture).mean() > 10


def test_codec_and_container_are_named(made: dict[str, Made]) -> None:
    info = probe(the("av1.mp4", made).path)
    assert (info.codec, info.container) == ("av1", "mov,mp4,m4a,3gp,3g2,mj2")


@pytest.mark.parametrize("name", ["ordinary.mp4", "copied.ts", "copied.mkv", "cut_gop30.mp4", "vp9.webm"])
def test_a_late_frame_costs_one_group_of_pictures_not_the_file(
    name: str, made: dict[str, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, numbers = the(name, made)
    decoded = 0
    walk = pyav.VideoFile._packets

    def counted(self: pyav.VideoFile, start: int):  # type: ignore[no-untyped-def]
        nonlocal decoded
        for step in walk(self, start):
            decoded += 1
            yield step

    monkeypatch.setattr(pyav.VideoFile, "_packets", counted)
    assert number_of(read(path, [len(numbers) - 1]).frames[0]) == numbers[-1]
    assert decoded < len(numbers) / 2


@pytest.mark.parametrize("index", [-1, 200, 10**6])
def test_a_frame_that_is_not_there_is_an_error(index: int, made: dict[str, Made]) -> None:
    with pytest.raises(VideoReadError, match=rf"frame {index} asked for, but it has frames 0\.\.199"):
        read(made["ordinary.mp4"].path, [0, index])


@pytest.mark.parametrize("indices", [[], [0.5], [[0]]])
def test_indices_are_whole_numbers(indices: list[int], made: dict[str, Made]) -> None:
    with pytest.raises(VideoReadError, match="list of whole numbers"):
        read(made["ordinary.mp4"].path, indices)


def test_there_are_two_backends(made: dict[str, Made]) -> None:
    with pytest.raises(ValueError, match=r"video\.backend='opencv' is not one of pyav, decord"):
        read(made["ordinary.mp4"].path, [0], backend="opencv")
    with pytest.raises(ValueError, match="is not one of"):
        probe(made["ordinary.mp4"].path, backend="auto")


def test_a_name_with_a_colon_is_a_file_and_no_address(
    made: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "http:clip.mp4").write_bytes(made["ordinary.mp4"].path.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert probe("http:clip.mp4").num_frames == 200


def test_references_that_are_never_shown_are_no_frames(made: dict[str, Made]) -> None:
    path = the("vp8_hidden.webm", made).path
    info, index, _ = pyav.inspect(path)
    assert info.num_frames == 120
    assert index.num_hidden == len(index.packets) - 120 > 0
