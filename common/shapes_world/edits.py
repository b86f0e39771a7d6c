"""Instruction-guided prediction: a history of frames, an instruction, and the frame that follows from both.

One history comes with two instructions that lead to two different futures, and each future depends on how the
object moved: the last frame alone does not tell it.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.shapes_world.render import paint, to_uint8
from common.shapes_world.scene import (
    AXES,
    BACKGROUND,
    COLOURS,
    DIRECTIONS,
    HELD_OUT,
    RADIUS,
    Thing,
    draw_pairs,
    generator,
)

SPEED = (0.02, 0.055)  # of the side of the picture, a frame: 1.3 to 3.5 px at 64
INSTRUCTIONS = {
    "continue": "keep the {shape} moving",
    "return": "turn the {shape} back",
    "recolour": "make the {shape} {colour}",
}


@dataclass(frozen=True)
class Edit:
    """One history with one of its two instructions.

    Attributes:
        thing: the object, in its state at frame 0 of the history.
        background: grey level.
        kind: a key of `INSTRUCTIONS`.
        colour: the object's colour in the target frame.
        frames: length of the history.
        lead: how many frames after the last of the history the target is.
    """

    thing: Thing
    background: int
    kind: str
    colour: str
    frames: int
    lead: int

    @property
    def instruction(self) -> str:
        """What is asked for."""
        return INSTRUCTIONS[self.kind].format(shape=self.thing.shape, colour=self.colour)

    @property
    def novel(self) -> bool:
        """Whether the history or the target shows a pair of colour and shape that training never shows."""
        shown = {(colour, self.thing.shape) for colour in (self.thing.colour, self.colour)}
        return not HELD_OUT.isdisjoint(shown)

    def history(self, *, size: int) -> NDArray[np.uint8]:
        """Frames of the history: uint8 RGB (frames, size, size, 3)."""
        return self._draw(self.thing, np.arange(self.frames, dtype=np.float64), size)

    def target(self, *, size: int) -> NDArray[np.uint8]:
        """The frame to predict: uint8 RGB (size, size, 3)."""
        ahead = -self.lead if self.kind == "return" else self.lead
        time = np.array([self.frames - 1.0 + ahead])
        return np.asarray(self._draw(replace(self.thing, colour=self.colour), time, size)[0])

    def _draw(self, thing: Thing, time: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
        canvas = np.full((len(time), size, size, 3), float(self.background))
        paint(canvas, thing, thing.position(time, size=size))
        return to_uint8(canvas)


def draw_edits(*, seed: int, split: str, index: int, size: int, frames: int, lead: int) -> tuple[Edit, Edit]:
    """The two edits of one history, a function of (seed, split, index).

    Args:
        seed: of the data set.
        split: "train", "val" or "test".
        index: number of the history in its split.
        size: side of the picture, pixels.
        frames: length of the history, >= 2.
        lead: frames from the last of the history to the target, >= 1.
    """
    rng = generator(seed, split, index, 2)
    allowed = split != "train"
    ((colour, shape),) = draw_pairs(rng, count=1, held_out_allowed=allowed)
    direction = AXES[int(rng.integers(2))][int(rng.integers(2))]
    radius = float(rng.uniform(*RADIUS)) * size
    along, across = float(rng.uniform(0, size)), float(rng.uniform(radius, size - radius))
    x, y = (along, across) if DIRECTIONS[direction][0] else (across, along)
    speed = float(rng.uniform(*SPEED)) * size
    thing = Thing(
        colour=colour,
        shape=shape,
        radius=round(radius, 2),
        x=round(x, 2),
        y=round(y, 2),
        direction=direction,
        speed=round(speed, 3),
        first=0,
        end=frames,
    )
    background = int(rng.integers(*BACKGROUND))
    others = [c for c in COLOURS if c != colour and (allowed or (c, shape) not in HELD_OUT)]
    recoloured = others[int(rng.integers(len(others)))]
    kinds = [tuple(INSTRUCTIONS)[i] for i in rng.permutation(len(INSTRUCTIONS))[:2]]
    colours = {"recolour": recoloured}
    first, second = (Edit(thing, background, k, colours.get(k, colour), frames, lead) for k in kinds)
    return first, second
