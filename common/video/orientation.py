"""Turns a stored picture upright by the display matrix of its file."""

import math

import numpy as np
from numpy.typing import NDArray

IDENTITY = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)


def rotation(matrix: tuple[int, ...]) -> int:
    """Degrees counter-clockwise, 0..359, by which the picture is turned for display."""
    a, b, _, c, d = matrix[:5]
    return round(-math.degrees(math.atan2(b / (math.hypot(b, d) or 1), a / (math.hypot(a, c) or 1)))) % 360


def is_mirrored(matrix: tuple[int, ...]) -> bool:
    """Whether the picture is shown as in a mirror (its determinant is negative)."""
    a, b, _, c, d = matrix[:5]
    return a * d - b * c < 0


def upright(picture: NDArray[np.uint8], matrix: tuple[int, ...]) -> NDArray[np.uint8]:
    """Applies a display matrix: a point (x, y) is shown at (a x + c y, b x + d y).

    Args:
        picture: uint8 (H, W, C) as stored.
        matrix: nine numbers, rows (a, b, u), (c, d, v), (x, y, w), 16.16 fixed point (ISO 14496-12, 8.2.2).

    Returns:
        uint8 (H, W, C) or (W, H, C).

    Raises:
        ValueError: the matrix is not a quarter turn with or without a mirror.
    """
    a, b, _, c, d = matrix[:5]
    if a and d and not b and not c:
        turned, across, down = picture, a, d
    elif b and c and not a and not d:
        turned, across, down = picture.transpose(1, 0, 2), c, b
    else:
        raise ValueError(f"a display rotation of {rotation(matrix)} degrees is not a quarter turn; re-encode the file")
    turned = turned[:, ::-1] if across < 0 else turned
    turned = turned[::-1] if down < 0 else turned
    return np.ascontiguousarray(turned)
