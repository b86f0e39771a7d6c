"""Optical flow of pictures whose motion is known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from common.metrics.image import ssim
from projects.genhancer.motion import flow, likeness, motion


def textured(size: int = 64) -> Tensor:
    """A smooth random picture, larger than what is looked at."""
    noise = torch.rand(1, 1, size // 8, size // 8, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic")


@pytest.mark.parametrize(("right", "down"), [(0, 0), (1, 0), (0, 2), (-3, 1), (5, -4)])
def test_a_shift_is_found(right: int, down: int) -> None:
    picture = textured(96)
    first = picture[..., 16:80, 16:80]
    second = picture[..., 16 - down : 80 - down, 16 - right : 80 - right]
    found = flow(first, second)[0, :, 16:-16, 16:-16]
    assert found.mean(dim=(1, 2)).tolist() == pytest.approx([right, down], abs=0.15)


def test_motion_is_a_share_of_the_short_side() -> None:
    picture = textured(96)[0, 0].round().clamp(0, 255).numpy().astype(np.uint8)
    frames = np.stack([np.repeat(picture[16:80, start : start + 64, None], 3, axis=2) for start in (16, 15, 13)])
    assert motion(frames).tolist() == pytest.approx([1 / 64, 2 / 64], rel=0.2)


def test_nothing_moves_in_a_still_clip() -> None:
    assert motion(np.full((3, 64, 48, 3), 90, np.uint8)).max() < 1e-9


def test_likeness_of_one_window_is_its_formula() -> None:
    one, two = np.random.default_rng(0).integers(0, 256, (2, 11, 11)).astype(np.float64)
    weights = np.exp(-(np.arange(-5, 6)[:, None] ** 2 + np.arange(-5, 6) ** 2) / 4.5)
    weights /= weights.sum()
    a, b = (weights * one).sum(), (weights * two).sum()
    aa, bb = (weights * (one - a) ** 2).sum(), (weights * (two - b) ** 2).sum()
    ab = (weights * (one - a) * (two - b)).sum()
    first, second = 2.55**2, 7.65**2
    expected = (2 * a * b + first) * (2 * ab + second) / ((a * a + b * b + first) * (aa + bb + second))
    found = likeness(torch.from_numpy(one).float()[None, None], torch.from_numpy(two).float()[None])
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_likeness_is_that_of_scores_but_for_their_border() -> None:
    picture = textured(64).round().clamp(0, 255)
    noise = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    others = (picture + noise * torch.tensor([0.0, 5.0]).view(2, 1, 1, 1)).round().clamp(0, 255)
    colour = others.byte().expand(-1, 3, -1, -1).contiguous()
    expected = ssim(colour, picture.byte().expand(2, 3, -1, -1).contiguous())
    assert likeness(others, picture[0]).tolist() == pytest.approx(expected.tolist(), abs=0.01)
