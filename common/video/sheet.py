"""A clip on one page: some of its frames side by side."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.shapes import expect
from common.video.sample import uniform
from common.video.transform import resize

GAP = 2  # pixels between frames
PAPER = 255


def contact_sheet(frames: Tensor, *, most: int, columns: int = 8, width: int = 160) -> Image.Image:
    """Frames at equal distance, the first and the last among them, in rows from left to right.

    Args:
        frames: uint8 (T, C, H, W), RGB, 0..255.
        most: frames to show, at most.
        columns: frames in a row.
        width: of a frame in pixels, at most; the aspect ratio stays.
    """
    expect(frames, "T C H W", name="frames", C=3, dtype=torch.uint8)
    shown = frames[torch.from_numpy(uniform(len(frames), min(len(frames), most)))].permute(0, 2, 3, 1).numpy()
    _, height, wide, _ = shown.shape
    if wide > width:
        shown = resize(shown, max(1, round(height * width / wide)), width, "bilinear")
    count, height, wide, _ = shown.shape
    across = min(columns, count)
    down = -(-count // across)
    page = np.full((down * (height + GAP) - GAP, across * (wide + GAP) - GAP, 3), PAPER, np.uint8)
    for place, frame in enumerate(shown):
        top, left = (place // across) * (height + GAP), (place % across) * (wide + GAP)
        page[top : top + height, left : left + wide] = frame
    return Image.fromarray(page)
