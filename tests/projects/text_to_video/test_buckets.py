"""Buckets: what a configuration may say, and where a clip goes."""

import pytest

from projects.text_to_video.buckets import Bucket, bucket_of, parse

WIDE, SQUARE, TALL = Bucket(36, 64, 64), Bucket(48, 48, 64), Bucket(64, 36, 64)
BRIEF = Bucket(36, 64, 16)
ALL = [SQUARE, TALL, WIDE, BRIEF]


def place(height: int, width: int, frames: int, *, min_frames: int | None = None) -> Bucket | None:
    return bucket_of(ALL, height=height, width=width, frames=frames, min_frames=min_frames)


@pytest.mark.parametrize(
    ("height", "width", "frames", "bucket"),
    [
        (720, 1280, 64, WIDE),
        (720, 1280, 900, WIDE),
        (720, 720, 64, SQUARE),
        (720, 960, 64, SQUARE),
        (1280, 720, 64, TALL),
        (720, 1280, 63, BRIEF),
        (720, 720, 40, BRIEF),
        (720, 1280, 15, None),
    ],
)
def test_the_nearest_in_aspect_ratio_and_the_longest(height: int, width: int, frames: int, bucket: Bucket) -> None:
    assert place(height, width, frames) == bucket


def test_a_clip_that_fills_none_goes_to_the_shortest_if_it_is_long_enough() -> None:
    assert place(720, 1280, 12, min_frames=12) == BRIEF
    assert place(720, 1280, 11, min_frames=12) is None


def test_of_two_sizes_the_largest_that_is_not_enlarged() -> None:
    sizes = [Bucket(256, 256, 64), Bucket(512, 512, 64), Bucket(1024, 1024, 64)]

    def side(source: int) -> int:
        found = bucket_of(sizes, height=source, width=source, frames=64, min_frames=None)
        assert found is not None
        return found.height

    assert [side(source) for source in (200, 256, 600, 2000)] == [256, 256, 512, 1024]


def test_lengths_come_from_the_seconds_where_none_is_given() -> None:
    assert parse([[32, 64], [32, 32, 16]], frames=64, multiple=8) == [Bucket(32, 64, 64), Bucket(32, 32, 16)]
    assert Bucket(32, 64, 16).name == "32x64x16"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "at least one"),
        ([[32, 32], [32, 32, 64]], "none twice"),
        ([[32]], r"\[32\] is not \[height, width\]"),
        ([[32, 0]], "is not"),
        ([[30, 32]], "multiples of 8"),
        ([[32, 32, 65]], "longer than the 64 frames"),
    ],
)
def test_other_buckets_are_refused(given: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(given, frames=64, multiple=8)


def test_a_clip_has_a_frame() -> None:
    with pytest.raises(ValueError, match="no frame"):
        parse([[32, 32]], frames=0, multiple=8)
