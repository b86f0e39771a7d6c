"""Frames that lie in image files: three channels of 8 bits, all of one size, or an error that names the file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from common.video.clip import VideoReadError
from common.video.images import opened

KINDS = {"L": "grey", "1": "black and white", "P": "a palette", "LA": "grey with alpha", "RGBA": "RGB with alpha"}


def read_rgb(path: Path, data: bytes | None = None) -> NDArray[np.uint8]:
    """One image, upright by its EXIF tag.

    Nothing is converted: a grey frame among coloured ones, or one with alpha, is a fault of the data more often than
    it is meant, and how to flatten it is not for the reader to choose.

    Args:
        path: the file, or what to call it where `data` is given.
        data: its content, where that is at hand.

    Returns:
        uint8 (H, W, 3), 0..255.

    Raises:
        VideoReadError: the file is missing, damaged, or has other channels than RGB.
    """
    with opened(path, data) as image:
        check_channels(path, image)
        return np.array(ImageOps.exif_transpose(image), dtype=np.uint8)


def check_channels(path: Path, image: Image.Image) -> None:
    """Refuses an image that is not plain RGB of 8 bits a channel."""
    if image.mode != "RGB" or image.has_transparency_data:
        kind = KINDS.get(image.mode, "not RGB")
        raise VideoReadError(
            path,
            f"the image is {kind} (mode {image.mode}), three channels are expected; write it anew with "
            "Image.convert('RGB'), or take its row out",
        )


def stack(frames: Sequence[tuple[Path, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Frames of one clip as uint8 (T, H, W, 3).

    Raises:
        VideoReadError: the frames differ in size; names the first that does.
    """
    first, size = frames[0][0], frames[0][1].shape
    for path, frame in frames[1:]:
        if frame.shape != size:
            raise VideoReadError(
                path,
                f"the frame is {frame.shape[1]}x{frame.shape[0]} and {first.name} of its row {size[1]}x{size[0]}; "
                "frames of a row have one size: write them anew, or take the row out",
            )
    return np.stack([frame for _, frame in frames])
