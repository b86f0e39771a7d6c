"""Reconstructions as pictures: what the tower saw, what was to be rebuilt, and what came of it."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common.callbacks.fixed_rows import png
from common.files import atomic_write_bytes
from common.video.transform import resize
from projects.genhancer.data import Batch

GAP, BREAK = 2, 10  # pixels between pictures of a part, and between parts
PAPER = 255
LEAST = 96  # pixels of the side of a picture; smaller ones are enlarged by a whole number


def write_grids(
    folder: Path, batch: Batch, *, names: Sequence[str], round_trips: Tensor, rebuilt: Sequence[Tensor]
) -> list[dict[str, str]]:
    """Writes a grid for each row of a batch, see `write_grid`.

    Args:
        folder: of the files.
        batch: B rows with their pictures.
        names: of the rows.
        round_trips: uint8 (B, 3, Ht, Wt).
        rebuilt: n reconstructions of all rows, uint8 (B, 3, Ht, Wt) each.

    Returns:
        A line for each row: {"id", "grid"}.
    """
    assert batch.conditions is not None
    assert batch.target is not None
    return [
        {
            "id": name,
            "grid": write_grid(
                folder,
                number,
                name,
                conditions=batch.conditions[row],
                target=batch.target[row],
                round_trip=round_trips[row],
                rebuilt=torch.stack([each[row] for each in rebuilt]),
            ),
        }
        for row, (number, name) in enumerate(zip(batch.rows.tolist(), names, strict=True))
    ]


def write_grid(
    folder: Path, number: int, name: str, *, conditions: Tensor, target: Tensor, round_trip: Tensor, rebuilt: Tensor
) -> str:
    """Writes one row as PNG: conditions | target, its round trip through the autoencoder | reconstructions.

    Args:
        folder: of the files; made if need be.
        number: of the row, so that no other has its file name.
        name: of the row; letters, digits, dots and lines of it are in the file name.
        conditions: uint8 (K, 3, H, W), 0..255.
        target: uint8 (3, Ht, Wt).
        round_trip: likewise.
        rebuilt: uint8 (n, 3, Ht, Wt).

    Returns:
        Path of the file.
    """
    side = max(LEAST, int(target.shape[-1]))
    parts = [list(conditions), [target, round_trip], list(rebuilt)]
    path = folder / f"{number:04d}_{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[-80:]}.png"
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, png(_line([[_picture(each, side) for each in part] for part in parts])))
    return str(path)


def _picture(picture: Tensor, side: int) -> NDArray[np.uint8]:
    """uint8 (side, side, 3)."""
    frame = np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy())
    if frame.shape[0] == side:
        return frame
    picture_grows_evenly = side % frame.shape[0] == 0
    return resize(frame[None], side, side, "nearest" if picture_grows_evenly else "bilinear")[0]


def _line(parts: list[list[NDArray[np.uint8]]]) -> Image.Image:
    """Pictures side by side."""
    side = parts[0][0].shape[0]
    narrow, wide = (np.full((side, width, 3), PAPER, dtype=np.uint8) for width in (GAP, BREAK))
    pieces: list[NDArray[np.uint8]] = []
    for part in parts:
        for place, picture in enumerate(part):
            if pieces:
                pieces.append(wide if place == 0 else narrow)
            pieces.append(picture)
    return Image.fromarray(np.concatenate(pieces, axis=1))
