"""How near a picture is to the true one: PSNR and SSIM of each sample, on 8-bit values."""

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from common.shapes import expect

RANGE = 255.0  # of 8-bit values, whatever the pictures hold: a dark pair is not stretched
ROUNDING = 1 / 12  # mean square of the error of rounding to whole numbers


def psnr(pred: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, 10 log10(255^2 / mean square error), over pixels and channels.

    The error counts as at least that of rounding to 8 bit (1/12, so 58.92 dB at most): both pictures are rounded, and
    without it one exact prediction would make the mean of a whole set infinite.

    Args:
        pred: uint8 (B, 3, H, W).
        truth: uint8 (B, 3, H, W).

    Returns:
        float32 (B,), dB.

    Raises:
        ValueError: other shapes or dtypes.
    """
    _check(pred, truth)
    error = (pred.float() - truth.float()).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(RANGE * RANGE / error.clamp(min=ROUNDING))


def ssim(pred: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each picture (Wang et al. 2004): Gaussian window of 11 pixels, sigma 1.5, range 255.

    Args:
        pred: uint8 (B, 3, H, W), at least 6 x 6 pixels: the window is reflected at the border.
        truth: uint8 (B, 3, H, W).

    Returns:
        float32 (B,), at most 1.

    Raises:
        ValueError: other shapes or dtypes, or smaller pictures.
    """
    _check(pred, truth)
    if min(pred.shape[-2:]) < 6:
        raise ValueError(f"SSIM of {pred.shape[-1]} x {pred.shape[-2]} pixels: its window needs at least 6 x 6")
    # In double precision: squares of 255 less nearly the same, beside a constant of 6.5.
    values = structural_similarity_index_measure(
        pred.double(), truth.double(), data_range=RANGE, reduction="none", sigma=1.5
    )
    assert isinstance(values, Tensor)
    return values.reshape(-1).float()


def _check(pred: Tensor, truth: Tensor) -> None:
    for name, pictures in (("pred", pred), ("truth", truth)):
        expect(pictures, "B C H W", name=name, C=3, dtype=torch.uint8)
    if pred.shape != truth.shape:
        raise ValueError(f"pred is {tuple(pred.shape)} and truth {tuple(truth.shape)}: pictures of one size")
