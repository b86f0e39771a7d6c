"""Two pictures that differ in exactly one visual detail, with a caption each: does an encoder see it?"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.shapes_world.language import COLUMNS, NUMBERS, place
from common.shapes_world.render import paint, to_uint8
from common.shapes_world.scene import (
    BACKGROUND,
    COLOURS,
    RADIUS,
    SHAPES,
    Thing,
    draw_pairs,
    generator,
)

DETAILS = ("position", "mirror", "colour", "shape", "size", "count")
Picture = tuple[Thing, ...]


@dataclass(frozen=True)
class Pair:
    """Two pictures that differ in `detail` alone; all objects of one picture share colour, shape and size."""

    detail: str
    background: int
    pictures: tuple[Picture, Picture]

    @property
    def captions(self) -> tuple[str, str]:
        """A caption of each; they differ in the words for the detail."""
        first, second = (describe(picture, size=1) for picture in self.pictures)
        return first, second

    @property
    def novel(self) -> bool:
        """Whether either shows a pair of colour and shape that training never shows."""
        return any(thing.held_out for picture in self.pictures for thing in picture)

    def draw(self, *, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Both pictures: uint8 RGB (size, size, 3) each."""
        first, second = (self._draw(picture, size) for picture in self.pictures)
        return first, second

    def _draw(self, picture: Picture, size: int) -> NDArray[np.uint8]:
        canvas = np.full((1, size, size, 3), float(self.background))
        for thing in picture:
            scaled = replace(thing, radius=thing.radius * size)
            paint(canvas, scaled, (np.array([thing.x * size]), np.array([thing.y * size])))
        return np.asarray(to_uint8(canvas)[0])


def describe(picture: Picture, *, size: int = 1) -> str:
    """Size, colour, shape, number and place: "one small red ring at the upper far left"."""
    things = sorted(picture, key=lambda thing: (thing.y, thing.x))
    large = "large" if things[0].radius > sum(RADIUS) / 2 else "small"
    places = " and the ".join(place(thing.x, thing.y, size=size) for thing in things)
    plural = {"cross": "es"}.get(things[0].shape, "s") if len(things) > 1 else ""
    return f"{NUMBERS[len(things) - 1]} {large} {things[0].name}{plural} at the {places}"


def draw_pair(*, seed: int, split: str, index: int) -> Pair:
    """One pair, a function of (seed, split, index); the details take turns, so that each has as many pairs.

    Lengths are shares of the picture's side.
    """
    rng = generator(seed, split, index, 3)
    detail = DETAILS[index % len(DETAILS)]
    allowed = split != "train"
    ((colour, shape),) = draw_pairs(rng, count=1, held_out_allowed=allowed)
    x, y = _inside(rng), _inside(rng)
    thing = Thing(colour, shape, RADIUS[int(rng.integers(2))], x, y, "right", 0.0, 0, 1)
    background = int(rng.integers(*BACKGROUND))
    pictures = [(thing,), _changed(thing, detail, rng, allowed)]
    first, second = (pictures[i] for i in rng.permutation(2))
    return Pair(detail, background, (first, second))


def _changed(thing: Thing, detail: str, rng: np.random.Generator, allowed: bool) -> Picture:
    """The other picture of the pair."""
    if detail == "mirror":
        return (replace(thing, x=round(1 - thing.x, 4)),)
    if detail == "size":
        return (replace(thing, radius=RADIUS[0] + RADIUS[1] - thing.radius),)
    if detail in ("colour", "shape"):
        if detail == "colour":
            others = [replace(thing, colour=colour) for colour in COLOURS if colour != thing.colour]
        else:
            others = [replace(thing, shape=shape) for shape in SHAPES if shape != thing.shape]
        shown = [other for other in others if allowed or not other.held_out]
        return (shown[int(rng.integers(len(shown)))],)
    while True:  # position: another cell; count: a second object that does not touch the first
        other = replace(thing, x=_inside(rng), y=_inside(rng))
        far = np.hypot(other.x - thing.x, other.y - thing.y) > 2.2 * thing.radius
        if far and place(other.x, other.y, size=1) != place(thing.x, thing.y, size=1):
            return (other,) if detail == "position" else (thing, other)


def _inside(rng: np.random.Generator) -> float:
    """A coordinate at which the largest object is whole, clear of the line between the halves."""
    value = float(rng.uniform(RADIUS[1], 0.5 - 1 / (4 * len(COLUMNS))))
    return round(value if rng.random() < 0.5 else 1 - value, 4)
