"""Broken files: what is there is read, what is not is an error that names the file; nothing is made up."""

import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from common.video.clip import Clip
from common.video.decode import VideoReadError, probe, read
from tests.common.video import files
from tests.common.video.files import Made, number_of

UNHARMED = [*range(15), *range(75, 90)]  # damage is done to the middle third


def one_by_one(path: Path) -> dict[int, Clip]:
    """Each frame of a file asked for by itself; those that cannot be decoded are left out."""
    clips = {}
    for i in range(probe(path).num_frames):
        with suppress(VideoReadError):
            clips[i] = read(path, [i])
    return clips


def test_a_truncated_mp4_gives_its_frames_and_no_others(clean: Path, tmp_path: Path) -> None:
    path = tmp_path / "truncated.mp4"
    files.cut_off(clean, path, 0.7)
    count = probe(path).num_frames
    assert 40 < count < 90
    clip = read(path, range(count))
    times = np.round(clip.seconds * 30).astype(int)  # B frames missing at the end leave gaps
    assert [number_of(frame) for frame in clip.frames] == times.tolist()
    assert times[: count - 4].tolist() == list(range(count - 4))
    assert clip.bad_packets >= 90 - count
    with pytest.raises(VideoReadError, match=f"frame {count} asked for"):
        read(path, [count])


def test_a_truncated_webm_gives_its_frames(made: dict[str, Made], tmp_path: Path) -> None:
    path = tmp_path / "truncated.webm"
    files.cut_off(made["vp9.webm"].path, path, 0.6)
    count = probe(path).num_frames
    assert 10 < count < 60
    assert [number_of(frame) for frame in read(path, range(count)).frames] == list(range(count))


def test_after_flipped_bits_frames_are_right_or_flagged_or_missing(clean: Path, tmp_path: Path) -> None:
    path = tmp_path / "flipped.mp4"
    files.flip_bits(clean, path, 40)
    clips, whole = one_by_one(path), read(clean, range(90))
    wrong = [i for i, clip in clips.items() if not np.array_equal(clip.frames[0], whole.frames[i])]
    flagged = [i for i, clip in clips.items() if clip.corrupt_frames]
    assert len(flagged) > 5
    # A flip that decodes without contradiction is seen by nobody, until the first contradiction in its group.
    assert len(set(wrong) - set(flagged)) <= 5
    assert not set(UNHARMED) & {*wrong, *flagged}
    assert set(UNHARMED) <= clips.keys()


def test_after_a_hole_frames_are_right_or_flagged_or_missing(clean: Path, tmp_path: Path) -> None:
    path = tmp_path / "hole.mp4"
    files.zero(clean, path, 1500)
    clips, whole = one_by_one(path), read(clean, range(90))
    wrong = {i for i, clip in clips.items() if not np.array_equal(clip.frames[0], whole.frames[i])}
    flagged = {i for i, clip in clips.items() if clip.corrupt_frames}
    assert 45 <= len(clips) < 88
    assert wrong <= flagged
    assert not set(UNHARMED) & flagged
    assert set(UNHARMED) <= clips.keys()


def test_a_clip_across_a_hole_is_an_error_that_counts_the_bad_packets(clean: Path, tmp_path: Path) -> None:
    path = tmp_path / "hole.mp4"
    files.zero(clean, path, 1500)
    reason = r"hole\.mp4: frame \d+ at \d\.\d{3} s cannot be decoded \(\d+ such frames, [1-9]\d* bad packets\)"
    with pytest.raises(VideoReadError, match=reason):
        read(path, range(90))


def test_bad_packets_on_the_way_are_counted(clean: Path, tmp_path: Path) -> None:
    path = tmp_path / "hole.mp4"
    files.zero(clean, path, 1500)
    there = one_by_one(path).keys()
    clip = read(path, sorted(there))
    assert clip.bad_packets > 0
    assert clip.corrupt_frames < len(there) - len(UNHARMED) + 1
    assert read(path, [0, 89]).bad_packets == 0


def test_a_damaged_file_without_times_is_refused_whole(made: dict[str, Made], tmp_path: Path) -> None:
    data = bytearray(made["h264.avi"].path.read_bytes())
    middle = (data.find(b"movi") + data.find(b"idx1")) // 2
    data[middle : middle + 1000] = bytes(1000)
    (tmp_path / "hole.avi").write_bytes(data)
    with pytest.raises(VideoReadError, match="cannot be told apart"):
        read(tmp_path / "hole.avi", [0])


def _nothing(folder: Path, clean: Path) -> Path:
    return folder / "absent.mp4"


def _empty(folder: Path, clean: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def _page(folder: Path, clean: Path) -> Path:
    (folder / "page.mp4").write_text("<!DOCTYPE html><html><body>404</body></html>" * 30)
    return folder / "page.mp4"


def _playlist(folder: Path, clean: Path) -> Path:
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile {clean}\n")
    return folder / "list.mp4"


def _noise(folder: Path, clean: Path) -> Path:
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    return folder / "noise.mp4"


def _sound(folder: Path, clean: Path) -> Path:
    files.ffmpeg("-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", folder / "sound.mp4")
    return folder / "sound.mp4"


def _no_index(folder: Path, clean: Path) -> Path:
    path = files.encode(folder / "behind.mp4", 60, *files.X264)
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"moov") - 4])
    return path


def _no_frames(folder: Path, clean: Path) -> Path:
    fragments = ("-movflags", "frag_keyframe+empty_moov")
    path = files.encode(folder / "none.mp4", 30, *files.X264, *fragments)
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"moof") - 4])
    return path


def _cover(folder: Path, clean: Path) -> Path:
    files.ffmpeg("-i", clean, "-frames:v", "1", folder / "cover.png")
    streams = (
        "-i",
        folder / "cover.png",
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "png",
        "-disposition:v",
        "attached_pic",
    )
    files.ffmpeg("-f", "lavfi", "-i", "sine=d=1", *streams, "-c:a", "aac", folder / "song.mp4")
    return folder / "song.mp4"


BROKEN = {
    "absent": (_nothing, "no such file"),
    "empty": (_empty, "is empty"),
    "page": (_page, "is text"),
    "playlist": (_playlist, "no known video container"),
    "noise": (_noise, "no known video container"),
    "sound only": (_sound, r"holds no video \(audio streams only\)"),
    "no index": (_no_index, "moov"),
    "no frames": (_no_frames, "no frames"),
    "cover picture": (_cover, r"holds no video"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_video_is_an_error_with_name_and_reason(kind: str, clean: Path, tmp_path: Path) -> None:
    maker, reason = BROKEN[kind]
    path = maker(tmp_path, clean)
    for attempt in (lambda: probe(path), lambda: read(path, [0]), lambda: read(path, lambda info: [0])):
        with pytest.raises(VideoReadError, match=reason) as caught:
            attempt()
        assert caught.value.path == str(path)
        assert str(path) in str(caught.value)


def test_the_error_survives_the_way_out_of_a_loader_process() -> None:
    error = pickle.loads(pickle.dumps(VideoReadError("a.mp4", "it is broken")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "it is broken", "a.mp4: it is broken")


def test_a_change_of_size_within_a_clip_is_an_error(tmp_path: Path) -> None:
    small = files.encode(tmp_path / "small.ts", 20, *files.X264)
    large = files.encode(tmp_path / "large.ts", 20, *files.X264, height=96, width=96)
    later = files.ffmpeg("-i", large, "-c", "copy", "-output_ts_offset", "5", "-f", "mpegts", "-")
    (tmp_path / "both.ts").write_bytes(small.read_bytes() + later)
    assert read(tmp_path / "both.ts", [0, 5]).frames.shape[1:3] == (64, 96)
    with pytest.raises(VideoReadError, match="picture size changes"):
        read(tmp_path / "both.ts", [0, 39])
