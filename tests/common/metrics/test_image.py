"""PSNR and SSIM against their formulas, sample by sample."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from common.metrics.image import psnr, ssim


def pictures(count: int = 3, size: int = 20, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=draw, dtype=torch.uint8)


def test_psnr_is_its_formula() -> None:
    truth = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    pred = truth.clone()
    pred[0] += 5
    pred[1, :, :4] += 10  # half the pixels
    assert psnr(pred, truth).tolist() == pytest.approx(
        [10 * math.log10(255**2 / 25), 10 * math.log10(255**2 / 50)], abs=1e-4
    )


def test_of_an_identical_picture_the_error_of_rounding_is_left() -> None:
    truth = pictures()
    assert psnr(truth, truth).tolist() == pytest.approx([10 * math.log10(12 * 255**2)] * 3, abs=1e-4)
    nearly = truth.clone()
    nearly[0, 0, 0, 0] ^= 1
    assert psnr(nearly, truth)[0] == psnr(truth, truth)[0]  # one value off by one, below rounding


def test_the_range_does_not_depend_on_what_is_in_the_picture() -> None:
    dark, bright = torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    dark[..., ::2], bright[..., 1::2] = 10, 10
    lone = psnr(dark, bright)
    both = psnr(torch.cat([dark, pictures(1, 16)]), torch.cat([bright, pictures(1, 16, seed=1)]))
    assert lone.item() == pytest.approx(10 * math.log10(255**2 / 100), abs=1e-4)
    assert both[0].item() == lone.item()


def wang(pred: np.ndarray, truth: np.ndarray) -> float:
    """Equation 13 of the paper with its Gaussian window, written out, reflected at the border."""
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for channel in range(3):
        x, y = (np.pad(p[channel].astype(np.float64), 5, mode="reflect") for p in (pred, truth))
        for row in range(pred.shape[1]):
            for column in range(pred.shape[2]):
                a, b = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                cov = (window * (a - ma) * (b - mb)).sum()
                values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


def test_ssim_is_its_formula_for_each_sample_alone() -> None:
    truth, noise = pictures(2, 14), pictures(2, 14, seed=4)
    pred = (0.7 * truth.float() + 0.3 * noise.float()).round().to(torch.uint8)
    found = ssim(pred, truth)
    assert found.tolist() == pytest.approx([wang(p.numpy(), t.numpy()) for p, t in zip(pred, truth, strict=True)])
    assert found[1:].equal(ssim(pred[1:], truth[1:]))
    assert ssim(truth, truth).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_other_pictures_are_refused(metric: type) -> None:
    with pytest.raises(ValueError, match=r"truth is .* expected B C H W, C=3, torch.uint8"):
        metric(pictures(), pictures().float())
    with pytest.raises(ValueError, match="pictures of one size"):
        metric(pictures(2), pictures(3))
    with pytest.raises(ValueError, match="pred is"):
        metric(pictures()[:, :1], pictures())


def test_too_small_a_picture_for_the_window_is_named() -> None:
    with pytest.raises(ValueError, match="5 x 5 pixels"):
        ssim(pictures(1, 5), pictures(1, 5))
