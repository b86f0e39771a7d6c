"""Pictures show what the description says."""

import numpy as np
import pytest

from common.shapes_world.render import coverage, render
from common.shapes_world.scene import COLOURS, SHAPES, draw_scene


def centre(*places: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([x for x, _ in places]), np.array([y for _, y in places])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_on_the_edge_comes_back_on_the_other_side(shape: str) -> None:
    whole, cut = coverage(shape, 10.0, centre((32.5, 32.5), (0.5, 32.5)), size=64)
    np.testing.assert_allclose(np.roll(cut, 32, axis=1), whole, atol=1e-12)
    assert cut[:, :8].sum() > 20
    assert cut[:, -8:].sum() > 20


def test_shapes_differ_in_most_of_their_pixels() -> None:
    masks = [coverage(shape, 8.0, centre((32.5, 32.5)), size=64)[0] > 0.5 for shape in SHAPES]
    for i, one in enumerate(masks):
        for two in masks[i + 1 :]:
            assert (one & two).sum() / (one | two).sum() < 0.7


def test_each_thing_is_in_its_colour_at_its_place_in_its_frames_alone() -> None:
    checked = 0
    for index in range(60):
        scene = draw_scene(seed=2, split="test", index=index)
        frames = render(scene)
        assert frames.shape == (16, 64, 64, 3)
        assert frames.dtype == np.uint8
        for thing in scene.things:
            near = np.abs(frames.astype(int) - np.array(COLOURS[thing.colour])).max(-1) < 8
            visible = near.any((1, 2))
            assert visible.tolist() == [thing.first <= frame < thing.end for frame in range(16)]
            for frame in range(thing.first, thing.end):
                rows, columns = np.nonzero(near[frame])
                place = [
                    np.angle(np.exp(2j * np.pi * (at + 0.5) / 64).mean()) / (2 * np.pi) * 64 for at in (columns, rows)
                ]
                x, y = thing.position(frame, size=64)
                off = [(found - wanted + 32) % 64 - 32 for found, wanted in zip(place, (x, y), strict=True)]
                assert np.hypot(*off) < 2.0
                checked += 1
    assert checked > 500
