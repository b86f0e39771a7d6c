"""Latents as tokens, and where tokens stand in time and space.

All coordinates have one unit, the side of a latent token (2 x 2 cells, 16 pixels with FLUX's autoencoder): the target's
tokens stand at whole numbers, and what covers the same picture with another grid stands where it covers it.
"""

import torch
from torch import Tensor

from common.shapes import expect

SIDE = 2  # cells of a latent in a token, each way


def pack(latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) to tokens (B, N, 4 C), row by row; inside a token channel, row, column.

    Raises:
        ValueError: an odd height or width.
    """
    expect(latents, "B C h w", name="latents")
    height, width = latents.shape[-2:]
    if height % SIDE or width % SIDE:
        raise ValueError(f"latents of {height} x {width} cells; tokens of {SIDE} x {SIDE} need an even number each way")
    cells = latents.unflatten(3, (width // SIDE, SIDE)).unflatten(2, (height // SIDE, SIDE))  # B C rows 2 columns 2
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack` for latents of height x width cells."""
    rows, columns = height // SIDE, width // SIDE
    expect(tokens, "B N D", name="tokens", N=rows * columns)
    cells = tokens.unflatten(2, (-1, SIDE, SIDE)).unflatten(1, (rows, columns))  # B rows columns C 2 2
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def latent_coordinates(height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """(0, row, column) of the target's tokens, float32 (N, 3), for latents of height x width cells.

    As published for images; the target of a clip stands at time 0 too, and its conditions before and after it.
    """
    return grid_coordinates((height // SIDE, width // SIDE), (height // SIDE, width // SIDE), device=device)


def class_coordinates(times: Tensor) -> Tensor:
    """(time, 0, 0) of class tokens, float32 (B, K, 3), at times (B, K); (0, 0, 0) as published for an image."""
    return torch.stack([times.float(), torch.zeros_like(times.float()), torch.zeros_like(times.float())], dim=-1)


def patch_coordinates(times: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """(time, row, column) of the patches of K frames, float32 (B, K P, 3), frame by frame.

    A patch stands at its own centre: the published code counts 24 x 24 patches and 21 x 21 tokens both from 0, though
    they cover one picture.

    Args:
        times: of the frames, (B, K).
        grid: rows and columns of patches.
        target: rows and columns of the target's tokens.
    """
    places = grid_coordinates(grid, target, device=times.device)
    ids = places.expand(*times.shape, *places.shape).clone()
    ids[..., 0] = times.float().unsqueeze(-1)
    return ids.flatten(1, 2)


def grid_coordinates(grid: tuple[int, int], target: tuple[int, int], *, device: torch.device | None = None) -> Tensor:
    """(0, row, column) of the cells of a grid, in units of the target's grid over the same picture: float32 (P, 3)."""
    axes = [
        (torch.arange(cells, device=device, dtype=torch.float32) + 0.5) * (wanted / cells) - 0.5
        for cells, wanted in zip(grid, target, strict=True)
    ]
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
