"""Real clips of several makers: counts that were checked by hand, and every frame readable."""

from pathlib import Path

import numpy as np
import pytest

from common.video.decode import probe, read
from common.video.sample import midpoint

CLIPS = {
    "conversations/1.mp4": (243, (360, 640)),
    "conversations/2.avi": (270, (240, 320)),
    "conversations/3.mp4": (146, (360, 640)),
    "conversations/4.mp4": (150, (224, 224)),
    "conversations/clip_vp9.webm": (453, (720, 1280)),
    "conversations/hiker_tiny.mp4": (49, (240, 368)),
    "conversations/short_720p_96_frames.mp4": (96, (720, 1280)),
    "activitynet/v_rBMQFpHspmo.mp4": (434, (224, 398)),
}


def test_no_clip_is_left_out(media: Path) -> None:
    found = [p for folder in ("conversations", "activitynet") for p in (media / folder).iterdir()]
    kinds = {".mp4", ".avi", ".webm"}
    assert {str(p.relative_to(media)) for p in found if p.suffix in kinds} == CLIPS.keys()


@pytest.mark.parametrize("name", CLIPS)
def test_counts_and_sizes(name: str, media: Path) -> None:
    info = probe(media / name)
    assert (info.num_frames, (info.height, info.width)) == CLIPS[name]


@pytest.mark.parametrize("name", CLIPS)
def test_sparse_frames_are_those_of_a_walk(name: str, media: Path) -> None:
    clip = read(media / name, lambda info: midpoint(info.num_frames, 5))
    around = read(media / name, range(int(clip.indices[1]) + 1))
    np.testing.assert_array_equal(clip.frames[:2], around.frames[clip.indices[:2]])
    assert (clip.bad_packets, clip.corrupt_frames) == (0, 0)
    assert len({frame.tobytes() for frame in clip.frames}) > 1
