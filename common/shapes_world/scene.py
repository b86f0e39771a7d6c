"""What happens in one clip: which objects, where they start, how they move, when they are visible.

Objects stay inside the picture. Where an object is in the middle of its visible time is uniform and independent of
its direction, and every choice is symmetric under reversal of time: so the middle frame tells no direction, and frames
without their order tell neither a direction nor which of two objects came first. Within walls the first frame cannot
be made to tell nothing as well (who starts at the left edge can only move right); on a torus it can, but then no sum
over frames tells anything either, and small models do not learn the direction within minutes.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 40, 40),
    "green": (40, 200, 60),
    "blue": (50, 80, 240),
    "yellow": (240, 220, 40),
    "magenta": (230, 60, 220),
    "cyan": (60, 220, 230),
}
SHAPES = ("square", "triangle", "cross", "ring")
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
AXES = (("left", "right"), ("up", "down"))
HELD_OUT = frozenset({("red", "square"), ("green", "triangle"), ("blue", "cross"), ("yellow", "ring")})
SPLITS = ("train", "val", "test")

MIN_FRAMES = 8
RADIUS = (0.125, 0.1875)  # of the side of the picture: 8 to 12 px at 64
TRAVEL = (0.45, 0.6)  # of the side, over the whole clip
VISIBLE = 0.625  # share of the clip for which each of two objects is visible; over half: the middle has both
GAP = 0.1875  # of the clip, at least, between the two events of an order question
BACKGROUND = (12, 52)  # grey levels
TRIES = 1000  # of the coordinates across the motions, before all is drawn again


@dataclass(frozen=True)
class Thing:
    """One object. Lengths in pixels, x to the right and y down, of its centre; speed in pixels a frame."""

    colour: str
    shape: str
    radius: float
    x: float
    y: float
    direction: str
    speed: float
    first: int  # first frame in which it is visible
    end: int  # one past the last

    @property
    def name(self) -> str:
        """How text calls it: "red square"."""
        return f"{self.colour} {self.shape}"

    @property
    def held_out(self) -> bool:
        """Whether its pair of colour and shape is kept out of training."""
        return (self.colour, self.shape) in HELD_OUT

    def position(self, time: Array | float, *, size: int) -> tuple[Array, Array]:
        """Centre at `time` (in frames), x and y in 0..size."""
        step_x, step_y = DIRECTIONS[self.direction]
        moved = np.asarray(time, dtype=np.float64) * self.speed
        return (self.x + step_x * moved) % size, (self.y + step_y * moved) % size


@dataclass(frozen=True)
class Scene:
    """One clip: `frames` pictures of `size` x `size` pixels on a grey background, with one or two things."""

    split: str
    index: int
    size: int
    frames: int
    background: int
    things: tuple[Thing, ...]

    @property
    def id(self) -> str:
        """Split and number, "train/000001"."""
        return f"{self.split}/{self.index:06d}"

    @property
    def held_out(self) -> bool:
        """Whether any of its things is a pair kept out of training."""
        return any(thing.held_out for thing in self.things)


def draw_scene(*, seed: int, split: str, index: int, size: int = 64, frames: int = 16) -> Scene:
    """Draws one clip. It depends on (seed, split, index) alone, never on how many clips are asked for.

    Args:
        seed: of the data set, >= 0.
        split: "train", "val" or "test"; only the last two hold the pairs of `HELD_OUT`.
        index: number of the clip in its split, >= 0.
        size: side of the picture, pixels.
        frames: number of frames, >= 8.

    Raises:
        ValueError: an unknown split or too few frames.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
    if frames < MIN_FRAMES:
        raise ValueError(f"frames must be at least {MIN_FRAMES}, not {frames}: two events need room")
    rng = generator(seed, split, index)
    background = int(rng.integers(*BACKGROUND))
    count = int(rng.integers(1, 3))
    pairs = draw_pairs(rng, count=count, held_out_allowed=split != "train")
    # The middle of an odd number of frames is the middle frame: of an even number the first shows nothing.
    times = [(1 - frames % 2, frames)] if count == 1 else _draw_times(rng, frames)
    while True:
        motions = _draw_motions(rng, pairs, times, size, frames)
        # Only the coordinates across the motions are drawn again to keep objects apart: where an object
        # starts along its motion stays uniform and independent of the direction.
        for _ in range(TRIES):
            things = tuple(_place(rng, motion, size) for motion in motions)
            if not _overlap(things, size):
                return Scene(split, index, size, frames, background, things)


def generator(seed: int, split: str, index: int, *stream: int) -> np.random.Generator:
    """The random numbers of one item; `stream` tells apart several uses for the same item."""
    return np.random.default_rng([seed, SPLITS.index(split), index, *stream])


def draw_pairs(rng: np.random.Generator, *, count: int, held_out_allowed: bool) -> list[tuple[str, str]]:
    """Colours and shapes of `count` objects: all colours differ, and all shapes."""
    colours = tuple(COLOURS)
    while True:
        chosen = [colours[i] for i in rng.permutation(len(colours))[:count]]
        shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))[:count]]
        pairs = list(zip(chosen, shapes, strict=True))
        if held_out_allowed or not HELD_OUT.intersection(pairs):
            return pairs


def _draw_times(rng: np.random.Generator, frames: int) -> list[tuple[int, int]]:
    """Two visible intervals of one length; which object comes first is a coin toss."""
    length = math.ceil(VISIBLE * frames)
    gap = max(1, round(GAP * frames))
    possible = range(frames - length + 1)
    starts = [(a, b) for a in possible for b in possible if abs(a - b) >= gap]
    return [(start, start + length) for start in starts[int(rng.integers(len(starts)))]]


def _draw_motions(
    rng: np.random.Generator,
    pairs: list[tuple[str, str]],
    times: list[tuple[int, int]],
    size: int,
    frames: int,
) -> list[Thing]:
    """The things with their place along their motion, but not yet across it."""
    # Two objects move along different axes: "left or right?" is then well posed for one of them alone.
    axes = rng.permutation(len(AXES))
    motions = []
    for (colour, shape), (first, end), axis in zip(pairs, times, axes, strict=False):
        radius = round(float(rng.uniform(*RADIUS)) * size, 2)
        speed = round(float(rng.uniform(*TRAVEL)) * size / frames, 3)
        direction = AXES[axis][int(rng.integers(2))]
        half = speed * (end - 1 - first) / 2
        middle = float(rng.uniform(radius + half, size - radius - half))
        along = round(middle - sum(DIRECTIONS[direction]) * speed * (first + end - 1) / 2, 2)
        motions.append(
            Thing(
                colour=colour,
                shape=shape,
                radius=radius,
                x=along,
                y=along,
                direction=direction,
                speed=speed,
                first=first,
                end=end,
            )
        )
    return motions


def _place(rng: np.random.Generator, motion: Thing, size: int) -> Thing:
    """Draws the coordinate across the motion, inside the picture: the object is whole in most frames."""
    across = round(float(rng.uniform(motion.radius, size - motion.radius)), 2)
    return replace(motion, y=across) if motion.direction in AXES[0] else replace(motion, x=across)


def _overlap(things: tuple[Thing, ...], size: int) -> bool:
    """Whether two things touch in a frame that shows both."""
    if len(things) < 2:
        return False
    one, two = things
    time = np.arange(max(one.first, two.first), min(one.end, two.end), dtype=np.float64)
    apart = np.subtract(one.position(time, size=size), two.position(time, size=size)) % size
    apart = np.minimum(apart, size - apart)
    return bool((np.hypot(*apart) < one.radius + two.radius).any())
