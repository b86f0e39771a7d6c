"""A contact sheet shows the frames it should, each in its place, and shrinks but never enlarges."""

import numpy as np
import pytest
import torch

from common.video.sheet import GAP, contact_sheet


def grey(count: int, height: int = 10, width: int = 20) -> torch.Tensor:
    """Frame t is of grey level t."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, height, width).contiguous()


def shown(frames: torch.Tensor, *, columns: int, height: int, width: int, **settings: int) -> list[int]:
    page = np.asarray(contact_sheet(frames, columns=columns, **settings))
    middles = page[height // 2 :: height + GAP, width // 2 :: width + GAP, 0]
    return [int(level) for level in middles.flatten() if level != 255]


def test_all_frames_of_a_short_clip_are_in_reading_order() -> None:
    page = contact_sheet(grey(5), most=16, columns=3)
    assert page.size == (3 * 20 + 2 * GAP, 2 * 10 + GAP)
    assert shown(grey(5), most=16, columns=3, height=10, width=20) == [0, 1, 2, 3, 4]


def test_of_a_long_clip_the_first_the_last_and_some_between() -> None:
    assert shown(grey(101), most=5, columns=8, height=10, width=20) == [0, 25, 50, 75, 100]


def test_large_frames_shrink_and_keep_their_aspect_ratio() -> None:
    assert contact_sheet(grey(1, 300, 640), most=4, width=160).size == (160, 75)


def test_frames_in_another_layout_are_refused() -> None:
    with pytest.raises(ValueError, match="frames"):
        contact_sheet(torch.zeros(4, 10, 20, 3, dtype=torch.uint8), most=4)
