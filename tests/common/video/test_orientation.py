"""Display matrices against the definition: where each corner goes."""

import numpy as np
import pytest

from common.video.orientation import IDENTITY, is_mirrored, rotation, upright

ONE = 65536
PICTURE = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)  # rows 0 1 2 / 3 4 5


def matrix(a: int, b: int, c: int, d: int) -> tuple[int, ...]:
    return (a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)


CASES = [
    ((1, 0, 0, 1), [[0, 1, 2], [3, 4, 5]], 0, False),
    ((0, -1, 1, 0), [[2, 5], [1, 4], [0, 3]], 90, False),
    ((-1, 0, 0, -1), [[5, 4, 3], [2, 1, 0]], 180, False),
    ((0, 1, -1, 0), [[3, 0], [4, 1], [5, 2]], 270, False),
    ((-1, 0, 0, 1), [[2, 1, 0], [5, 4, 3]], 180, True),
    ((1, 0, 0, -1), [[3, 4, 5], [0, 1, 2]], 0, True),
    ((0, 1, 1, 0), [[0, 3], [1, 4], [2, 5]], 270, True),
    ((0, -1, -1, 0), [[5, 2], [4, 1], [3, 0]], 90, True),
]


@pytest.mark.parametrize(("numbers", "shown", "degrees", "mirrored"), CASES)
def test_all_eight_orientations(
    numbers: tuple[int, int, int, int], shown: list[list[int]], degrees: int, mirrored: bool
) -> None:
    turned = upright(PICTURE, matrix(*numbers))
    assert turned[..., 0].tolist() == shown
    assert rotation(matrix(*numbers)) == degrees
    assert is_mirrored(matrix(*numbers)) is mirrored


def test_identity_is_the_default() -> None:
    assert matrix(1, 0, 0, 1) == IDENTITY


def test_a_slanted_picture_is_refused() -> None:
    slanted = (46341, -46341, 0, 46341, 46341, 0, 0, 0, 1 << 30)
    with pytest.raises(ValueError, match="45 degrees is not a quarter turn"):
        upright(PICTURE, slanted)
