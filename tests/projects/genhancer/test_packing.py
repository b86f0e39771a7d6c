"""Tokens against loops; coordinates as published for images, aligned for other grids."""

import pytest
import torch

from projects.genhancer.packing import (
    class_coordinates,
    grid_coordinates,
    latent_coordinates,
    pack,
    patch_coordinates,
    unpack,
)
from tests.projects.genhancer.toy_generator import normal


def test_a_token_is_two_by_two_cells_channel_major() -> None:
    latents = normal(2, 3, 4, 6)
    tokens = pack(latents)
    assert tokens.shape == (2, 6, 12)
    for row in range(2):
        for column in range(3):
            cells = [
                latents[:, channel, 2 * row + down, 2 * column + right]
                for channel in range(3)
                for down in range(2)
                for right in range(2)
            ]
            assert torch.equal(tokens[:, 3 * row + column], torch.stack(cells, dim=1))
    assert torch.equal(unpack(tokens, 4, 6), latents)


def test_published_sizes() -> None:
    for pixels, tokens in ((224, 196), (336, 441), (384, 576)):
        assert pack(torch.zeros(1, 16, pixels // 8, pixels // 8)).shape == (1, tokens, 64)


def test_odd_latents_are_refused() -> None:
    with pytest.raises(ValueError, match="27 x 28 cells"):
        pack(torch.zeros(1, 16, 27, 28))


def test_coordinates_of_an_image_are_the_published_ones() -> None:
    expected = torch.tensor([(0, row, column) for row in range(21) for column in range(21)]).float()
    assert torch.equal(latent_coordinates(42, 42), expected)
    assert torch.equal(class_coordinates(torch.zeros(2, 1)), torch.zeros(2, 1, 3))


def test_patches_stand_over_the_tokens_of_the_same_place() -> None:
    """Both grids cover one picture; counting each from 0, as published, is off by three tokens at the end."""
    places = grid_coordinates((24, 24), (21, 21))
    pixel = 14 * (torch.arange(24) + 0.5)  # centres of patches, in pixels of 336
    torch.testing.assert_close(places.view(24, 24, 3)[:, 0, 1], pixel / 16 - 0.5)
    torch.testing.assert_close(places.view(24, 24, 3)[0, :, 2], pixel / 16 - 0.5)
    assert places[-1, 1:].tolist() == pytest.approx([20.0625, 20.0625])
    assert torch.equal(grid_coordinates((21, 21), (21, 21)), latent_coordinates(42, 42))


def test_patches_go_frame_by_frame_at_the_time_of_their_frame() -> None:
    ids = patch_coordinates(torch.tensor([[-2.0, 2.0], [-1.0, 3.0]]), (2, 2), (4, 4)).view(2, 2, 4, 3)
    assert ids[..., 0].tolist() == [[[-2.0] * 4, [2.0] * 4], [[-1.0] * 4, [3.0] * 4]]
    assert torch.equal(ids[0, 0, :, 1:], ids[1, 1, :, 1:])
    assert ids[0, 0, :, 1:].tolist() == [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]
