"""Captioned pictures to train the tiny CLIP on: single frames of the built-in world, in groups of near doubles."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.shapes_world.language import COLUMNS, ROWS, place
from common.shapes_world.render import coverage, to_uint8
from common.shapes_world.scene import BACKGROUND, COLOURS, RADIUS, SHAPES

GROUP = 4  # pictures that differ in one detail: without them shape hardly matters to the contrast
TWO_SHARE = 0.3  # of the groups that show two objects
SIZE_SHARE = 0.25  # of the captions that tell the size
RGB = np.array(list(COLOURS.values()), dtype=np.float64)
NAMES = tuple(COLOURS)


@dataclass
class Batch:
    """Objects of B pictures, two places each; lengths are shares of the picture's side.

    colour, shape: int (B, 2). radius, x, y: float (B, 2). two: bool (B,), whether the second is there.
    """

    colour: NDArray[np.int64]
    shape: NDArray[np.int64]
    radius: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    two: NDArray[np.bool_]

    def cell(self) -> NDArray[np.int64]:
        """Cell of the first object, (B,), counted along the rows of the 4x4 grid."""
        columns, rows = (self.x[:, 0] * len(COLUMNS)).astype(int), (self.y[:, 0] * len(ROWS)).astype(int)
        return np.asarray(rows * len(COLUMNS) + columns)

    def caption(self, row: int, *, sized: bool) -> str:
        """What one picture shows, and where."""
        parts = []
        for k in range(1 + int(self.two[row])):
            large = "large " if self.radius[row, k] > sum(RADIUS) / 2 else "small "
            name = f"{large if sized else ''}{NAMES[self.colour[row, k]]} {SHAPES[self.shape[row, k]]}"
            parts.append(f"a {name} at the {place(self.x[row, k], self.y[row, k], size=1)}")
        return " and ".join(parts)


def draw_batch(rng: np.random.Generator, *, count: int, size: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Pictures uint8 (count, size, size, 3) and their captions, of any pair of colour and shape.

    The pairs that the data sets hold out are for what is trained on them; a base model has seen everything.
    """
    batch = _draw(rng, count)
    _vary(rng, batch)
    sized = rng.random(count) < SIZE_SHARE
    captions = [batch.caption(row, sized=bool(sized[row])) for row in range(count)]
    return paint_batch(batch, rng.integers(*BACKGROUND, size=count), size=size), captions


def draw_single(rng: np.random.Generator, *, count: int, size: int) -> tuple[NDArray[np.uint8], Batch]:
    """Pictures uint8 (count, size, size, 3) of one object each, of any pair of colour and shape."""
    shape = (count, 2)
    batch = Batch(
        colour=rng.integers(len(NAMES), size=shape),
        shape=rng.integers(len(SHAPES), size=shape),
        radius=rng.uniform(*RADIUS, size=shape),
        x=rng.random(shape),
        y=rng.random(shape),
        two=np.zeros(count, dtype=bool),
    )
    return paint_batch(batch, rng.integers(*BACKGROUND, size=count), size=size), batch


def paint_batch(batch: Batch, background: NDArray[np.int64], *, size: int) -> NDArray[np.uint8]:
    """Pictures uint8 (B, size, size, 3) of a batch; `background` are grey levels (B,)."""
    canvas = np.repeat(background[:, None, None, None].astype(np.float64), size, axis=1).repeat(size, axis=2)
    canvas = canvas.repeat(3, axis=3)
    for k in range(2):
        there = batch.two | (k == 0)
        for index, shape in enumerate(SHAPES):
            rows = np.flatnonzero(there & (batch.shape[:, k] == index))
            radius = batch.radius[rows, k, None, None] * size
            share = coverage(shape, radius, (batch.x[rows, k] * size, batch.y[rows, k] * size), size=size)
            paint = RGB[batch.colour[rows, k]][:, None, None, :]
            canvas[rows] += share[..., None] * (paint - canvas[rows])
    return to_uint8(canvas)


def _draw(rng: np.random.Generator, count: int) -> Batch:
    """Random pictures in runs of `GROUP` equal ones."""
    groups = -(-count // GROUP)
    colour, shape = (rng.integers(len(names), size=(groups, 2)) for names in (NAMES, SHAPES))
    two = rng.random(groups) < TWO_SHARE
    two &= (colour[:, 0] != colour[:, 1]) & (shape[:, 0] != shape[:, 1])
    x, y = rng.random((2, groups, 2))
    near = np.hypot(_apart(x), _apart(y)) < 2 * RADIUS[1]
    x[near, 1], y[near, 1] = (x[near, 0] + 0.5) % 1, (y[near, 0] + 0.5) % 1
    radius = rng.uniform(*RADIUS, size=(groups, 2))
    parts = (colour, shape, radius, x, y, two)
    return Batch(*(np.repeat(part, GROUP, axis=0)[:count] for part in parts))


def _apart(coordinate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of two places on a torus of length 1."""
    difference = (coordinate[:, 0] - coordinate[:, 1]) % 1
    return np.minimum(difference, 1 - difference)


def _vary(rng: np.random.Generator, batch: Batch) -> None:
    """Lets the pictures of each run differ in one detail: shape, colour, a coordinate, or what goes with what."""
    count = len(batch.two)
    step = np.arange(count) % GROUP
    kind = np.repeat(rng.choice(["shape", "x", "y", "colour"], p=[0.55, 0.175, 0.175, 0.1], size=count), GROUP)[:count]
    batch.shape[:, 0] = np.where(kind == "shape", (batch.shape[:, 0] + step) % len(SHAPES), batch.shape[:, 0])
    batch.colour[:, 0] = np.where(kind == "colour", (batch.colour[:, 0] + step) % len(NAMES), batch.colour[:, 0])
    # Both objects move, so that they stay apart.
    batch.x += np.where(kind == "x", step / GROUP, 0)[:, None]
    batch.y += np.where(kind == "y", step / GROUP, 0)[:, None]
    batch.x %= 1
    batch.y %= 1
    swap = batch.two & (step >= GROUP // 2)  # half of a run of two objects: the shapes change places
    batch.shape[swap] = batch.shape[swap][:, ::-1]
