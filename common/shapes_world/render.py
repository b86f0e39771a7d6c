"""Draws scenes as pictures, with soft edges (one pixel of blending), on a torus."""

import numpy as np
from numpy.typing import NDArray

from common.shapes_world.scene import COLOURS, SHAPES, Scene, Thing

Array = NDArray[np.float64]


def render(scene: Scene) -> NDArray[np.uint8]:
    """All frames of a scene: uint8 RGB (T, H, W, 3)."""
    canvas = np.full((scene.frames, scene.size, scene.size, 3), float(scene.background))
    for thing in scene.things:
        time = np.arange(thing.first, thing.end, dtype=np.float64)
        paint(canvas[thing.first : thing.end], thing, thing.position(time, size=scene.size))
    return to_uint8(canvas)


def paint(canvas: Array, thing: Thing, centre: tuple[Array, Array]) -> None:
    """Paints one thing over `canvas` in place.

    Args:
        canvas: float64 (T, H, W, 3), 0..255, H == W.
        thing: its colour, shape and radius are used.
        centre: x and y in pixels, each (T,).
    """
    share = coverage(thing.shape, thing.radius, centre, size=canvas.shape[1])[..., None]
    canvas *= 1 - share
    canvas += share * np.asarray(COLOURS[thing.colour], dtype=np.float64)


def coverage(shape: str, radius: float | Array, centre: tuple[Array, Array], *, size: int) -> Array:
    """Share of each pixel that the shape covers, 0..1, (T, size, size); `radius` is one number or (T, 1, 1)."""
    middle = np.arange(size) + 0.5  # of each pixel
    x, y = (((middle - np.asarray(at)[:, None] + size / 2) % size) - size / 2 for at in centre)
    distance = signed_distance(shape, x[:, None, :], y[:, :, None], radius)
    return np.clip(0.5 - distance, 0.0, 1.0)


def signed_distance(shape: str, x: Array, y: Array, radius: float | Array) -> Array:
    """Distance to the edge in pixels (negative inside; outside of corners only a lower bound).

    The four shapes differ in outline and in where they are empty: 64 pixels suffice to tell them apart.
    """
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.82 * radius
    if shape == "triangle":  # upright, equilateral, inscribed in the circle of this radius
        return np.maximum(abs(x) * 0.866 - y * 0.5, y) - 0.5 * radius
    if shape == "cross":
        arm = 0.3 * radius
        lying, standing = np.maximum(abs(x) - radius, abs(y) - arm), np.maximum(abs(x) - arm, abs(y) - radius)
        return np.minimum(lying, standing)
    assert shape == "ring", f"{shape} is not one of {SHAPES}"
    return abs(np.hypot(x, y) - 0.78 * radius) - 0.22 * radius


def to_uint8(canvas: Array) -> NDArray[np.uint8]:
    """Rounds 0..255 to uint8."""
    return np.rint(canvas).astype(np.uint8)
