"""Which frames make a row."""

from typing import Any

import pytest

from projects.pix2pix_video.sources.windows import Window, Windows


def test_twenty_frames_and_the_next() -> None:
    (window,) = Windows(history=20).of(21)
    assert window == Window(tuple(range(20)), 20)
    assert Windows(history=20).span == 21


def test_the_single_image_baseline_keeps_the_target() -> None:
    assert Windows(history=1).of(21) == [Window((19,), 20)]
    assert Windows(history=1, gap=20).of(21) == [Window((0,), 20)]


@pytest.mark.parametrize(
    ("settings", "frames", "expected"),
    [
        ({"history": 3}, 6, [Window((2, 3, 4), 5)]),
        ({"history": 3, "anchor": "start"}, 6, [Window((0, 1, 2), 3)]),
        ({"history": 3, "stride": 2, "gap": 3}, 9, [Window((1, 3, 5), 8)]),
        ({"history": 2, "step": 2}, 6, [Window((1, 2), 3), Window((3, 4), 5)]),
        ({"history": 2, "step": 2, "anchor": "start"}, 6, [Window((0, 1), 2), Window((2, 3), 4)]),
        ({"history": 3}, 3, []),
    ],
)
def test_windows_of_a_clip(settings: dict[str, Any], frames: int, expected: list[Window]) -> None:
    assert Windows(**settings).of(frames) == expected


@pytest.mark.parametrize("settings", [{"history": 0}, {"gap": 0}, {"stride": 0}, {"step": 0}, {"anchor": "middle"}])
def test_what_makes_no_window_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"task.{next(iter(settings))}="):
        Windows(**settings)
