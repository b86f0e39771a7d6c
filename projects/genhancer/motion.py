"""Choosing frames by what moves: structural similarity, and optical flow after Lucas and Kanade (IJCAI 1981).

The flow is computed here, without OpenCV: on grey pictures of `SIDE` pixels, coarse to fine, each level solving for a
shift at every pixel from the gradients in a window around it. It is a measure of how much moves, not a fine flow field.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from common.video.transform import resize_short_side
from projects.genhancer.sampling import Choice, Seconds

SIDE = 64  # pixels of the short side at which motion is looked at
WINDOW = 9  # pixels over which a shift is assumed constant
LEVELS = 4  # halvings and the picture itself
ROUNDS = 3  # of refinement a level
DAMPING = 1.0  # squared grey levels; keeps the shift at 0 where a window shows nothing


def by_ssim(frames: NDArray[np.uint8], seconds: Seconds, *, count: int = 2, min_gap: float = 0.0) -> list[Choice]:
    """The frames that differ most: the first, then again and again the one that is least like those taken so far.

    Likeness is `likeness`; the next frame has the greatest sum of 1 - SSIM to those taken, of equal ones the earliest.
    Of the count + 1 frames, in the order of time, the middle one is rebuilt.

    Args:
        frames: uint8 (F, H, W, 3).
        seconds: float64 (F,).
        count: K, frames that are shown.
        min_gap: seconds between any two of the frames taken, at least.

    Returns:
        One choice, or none where there are too few frames that far apart.
    """
    small = _grey(frames)
    seconds = np.asarray(seconds, np.float64)
    taken = [0]
    unlike = torch.zeros(len(small))
    free = np.abs(seconds - seconds[0]) >= max(min_gap, 1e-9)
    while len(taken) <= count and free.any():
        unlike += 1 - likeness(small, small[taken[-1]])
        taken.append(int(unlike.masked_fill(torch.from_numpy(~free), -torch.inf).argmax()))
        free &= np.abs(seconds - seconds[taken[-1]]) >= max(min_gap, 1e-9)
    if len(taken) <= count:
        return []
    ordered = sorted(taken)
    target = ordered.pop((count + 1) // 2)
    return [Choice(tuple(ordered), target)]


def by_flow(frames: NDArray[np.uint8], seconds: Seconds, *, min_motion: float = 0.01) -> list[Choice]:
    """First and last are shown; rebuilt is the frame at which half of all motion has happened.

    Args:
        frames: uint8 (F, H, W, 3).
        seconds: float64 (F,); only their number counts here.
        min_motion: least sum of motion, as a share of the short side; a clip that moves less has no choice.

    Returns:
        One choice, or none of fewer than three frames, or where nothing moves.
    """
    if len(frames) < 3:
        return []
    done = np.concatenate([[0.0], np.cumsum(motion(frames))])
    if done[-1] <= 0 or done[-1] < min_motion:
        return []
    middle = 1 + int(np.abs(done[1:-1] - done[-1] / 2).argmin())
    return [Choice((0, len(frames) - 1), middle)]


def motion(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean length of the flow from each frame to the next, as a share of the short side: float64 (F - 1,)."""
    small = _grey(frames)
    shift = flow(small[:-1], small[1:])
    share: NDArray[np.float64] = (shift.norm(dim=1).mean(dim=(1, 2)) / SIDE).double().numpy()
    return share


def likeness(pictures: Tensor, other: Tensor) -> Tensor:
    """SSIM (Wang et al. 2004) of grey pictures with one: Gaussian window of 11 pixels, sigma 1.5, range 255.

    The means are over where the window lies inside, in single precision: many times faster than
    `common.metrics.image.ssim`, and good enough to rank frames.

    Args:
        pictures: grey levels, float32 (N, 1, H, W), at least 11 x 11 pixels.
        other: (1, H, W).

    Returns:
        float32 (N,).
    """
    first, second = pictures - 127.5, (other - 127.5).expand_as(pictures)  # squares of smaller numbers are more exact
    weights = torch.exp(-torch.arange(-5, 6).float().square() / (2 * 1.5**2))
    row = (weights / weights.sum()).view(1, 1, 1, -1)
    products = torch.cat([first, second, first * first, second * second, first * second], dim=0)
    means = functional.conv2d(functional.conv2d(products, row), row.transpose(2, 3))
    one, two, one_square, two_square, both = means.chunk(5)
    bright, contrast = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    variances, covariance = one_square - one * one + two_square - two * two, both - one * two
    one, two = one + 127.5, two + 127.5
    similar = (2 * one * two + bright) * (2 * covariance + contrast)
    return (similar / ((one * one + two * two + bright) * (variances + contrast))).mean(dim=(1, 2, 3))


def _grey(frames: NDArray[np.uint8]) -> Tensor:
    """Grey levels 0..255 at the size at which motion is looked at: float32 (F, 1, h, w)."""
    small = torch.from_numpy(resize_short_side(frames, SIDE)).float()
    return (small @ torch.tensor([0.299, 0.587, 0.114]))[:, None]  # ITU-R BT.601


def flow(first: Tensor, second: Tensor) -> Tensor:
    """How far each pixel of the first pictures lies in the second.

    Args:
        first: grey levels, float32 (N, 1, H, W).
        second: likewise.

    Returns:
        float32 (N, 2, H, W): pixels to the right and down.
    """
    pyramid = [(first, second)]
    while len(pyramid) < LEVELS and min(pyramid[-1][0].shape[-2:]) >= 2 * WINDOW:
        pyramid.append(tuple(functional.avg_pool2d(each, 2) for each in pyramid[-1]))  # type: ignore[arg-type]
    shift = first.new_zeros(len(first), 2, *pyramid[-1][0].shape[-2:])
    for one, two in reversed(pyramid):
        if shift.shape[-2:] != one.shape[-2:]:
            shift = 2 * functional.interpolate(shift, size=one.shape[-2:], mode="bilinear", align_corners=False)
        for _ in range(ROUNDS):
            shift = shift + _step(one, _moved(two, shift))
    return shift


def _step(one: Tensor, two: Tensor) -> Tensor:
    """The least-squares shift of each window: (sum of g g^T + damping) shift = - sum of g (two - one)."""
    right = functional.pad(two, (1, 1, 0, 0), mode="replicate")
    down = functional.pad(two, (0, 0, 1, 1), mode="replicate")
    x, y = (right[..., 2:] - right[..., :-2]) / 2, (down[..., 2:, :] - down[..., :-2, :]) / 2
    rest = two - one
    products = torch.cat([x * x, x * y, y * y, x * rest, y * rest], dim=1)
    means = functional.avg_pool2d(products, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)
    xx, xy, yy, xr, yr = means.unbind(dim=1)
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = xx * yy - xy * xy
    return torch.stack([(xy * yr - yy * xr) / determinant, (xy * xr - xx * yr) / determinant], dim=1)


def _moved(pictures: Tensor, shift: Tensor) -> Tensor:
    """Pictures read at each pixel's place plus its shift, bilinearly; beyond the border the border."""
    height, width = pictures.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x, y]).to(shift) + shift
    scale = torch.tensor([max(width - 1, 1), max(height - 1, 1)]).to(shift).view(1, 2, 1, 1)
    grid = (2 * places / scale - 1).permute(0, 2, 3, 1)
    return functional.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=True)
