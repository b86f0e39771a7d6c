"""Finds the objects in pictures of this world, also in blurred, noisy or generated ones, and how they move in clips.

Nothing is learned: a colour is the direction in which pixels differ from the background, and shape, size and place are
those of the drawn template that differs least, on the torus that the world is.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from common.shapes_world.render import coverage
from common.shapes_world.scene import COLOURS, DIRECTIONS, RADIUS, SHAPES

Array = NDArray[np.float64]

CHROMA = 60.0  # of 255 between the strongest and the weakest channel: a pixel at least a third covered
RADII = 7  # sizes of templates tried, over RADIUS and a little beyond
MASS = 0.3  # of the area of the smallest shape: fewer pixels of a colour are no object
STILL = 0.25  # of a pixel a frame: less is no motion


@dataclass(frozen=True)
class Found:
    """One object in a picture. Lengths in pixels, x to the right and y down, centre on the torus in 0..size.

    Attributes:
        confidence: 0..1, twice the overlap of the object with its template over the sum of both; 1 is equal.
    """

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    confidence: float


@dataclass(frozen=True)
class Track:
    """One object through a clip.

    Attributes:
        colour: its colour; the objects of a clip have different ones.
        shape: the shape most frames agree on, weighted by confidence.
        places: what each frame has of this colour, None where it is absent.
        velocity: x and y in pixels a frame, mean over neighbouring frames that both show it; None below two such.
        direction: a key of `DIRECTIONS`; None where it stands still or is not seen in neighbouring frames.
    """

    colour: str
    shape: str
    places: tuple[Found | None, ...]
    velocity: tuple[float, float] | None
    direction: str | None


def find(picture: NDArray[np.uint8]) -> list[Found]:
    """The objects of a picture, at most one of each colour, the largest first.

    Args:
        picture: uint8 RGB (H, W, 3), H == W.

    Raises:
        ValueError: another shape or dtype.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[0] != picture.shape[1] or picture.shape[2] != 3:
        raise ValueError(f"a picture is uint8 (H, H, 3), not {picture.dtype} {picture.shape}")
    size = len(picture)
    above = picture - np.median(picture.reshape(-1, 3), axis=0)
    named = _colours(_box(above))
    least = MASS * _area_of_smallest(size)
    masses = {colour: float((named == number).sum()) for number, colour in enumerate(COLOURS)}
    shown = sorted((colour for colour, mass in masses.items() if mass >= least), key=lambda c: -masses[c])
    background = picture - above
    return [_fit(colour, above, named, background[0, 0], size) for colour in shown]


def direction_of(velocity: tuple[float, float], *, still: float = STILL) -> str | None:
    """The direction nearest to a velocity in pixels a frame; None if it is slower than `still`."""
    if np.hypot(*velocity) < still:
        return None
    return max(DIRECTIONS, key=lambda name: float(np.dot(DIRECTIONS[name], velocity)))


def apart(one: Found, two: Found, *, size: int) -> tuple[float, float]:
    """The way from `one` to `two` on the torus, x and y in -size/2..size/2."""
    half = size / 2
    return (two.x - one.x + half) % size - half, (two.y - one.y + half) % size - half


def track(clip: NDArray[np.uint8]) -> list[Track]:
    """The objects of a clip, those in most frames first.

    Args:
        clip: uint8 RGB (T, H, W, 3), H == W, T >= 1.
    """
    frames = [{found.colour: found for found in find(frame)} for frame in clip]
    counts = Counter(colour for frame in frames for colour in frame)
    tracks = []
    for colour, _ in counts.most_common():
        places = tuple(frame.get(colour) for frame in frames)
        velocity = _velocity(places, size=clip.shape[1])
        direction = None if velocity is None else direction_of(velocity)
        tracks.append(Track(colour, _shape(places), places, velocity, direction))
    return tracks


def _shape(places: Sequence[Found | None]) -> str:
    votes = dict.fromkeys(SHAPES, 0.0)
    for place in places:
        if place is not None:
            votes[place.shape] += place.confidence
    return max(votes, key=lambda shape: votes[shape])


def _velocity(places: Sequence[Found | None], *, size: int) -> tuple[float, float] | None:
    moves = [apart(one, two, size=size) for one, two in pairwise(places) if one is not None and two is not None]
    if not moves:
        return None
    x, y = np.mean(moves, axis=0)
    return float(x), float(y)


def _box(picture: Array) -> Array:
    """Mean over 3 x 3 pixels of the torus: noise of single pixels has no colour."""
    rows = picture + np.roll(picture, 1, axis=0) + np.roll(picture, -1, axis=0)
    return np.asarray((rows + np.roll(rows, 1, axis=1) + np.roll(rows, -1, axis=1)) / 9)


def _colours(above: Array) -> NDArray[np.int64]:
    """Number of the colour of each pixel, -1 for background: (H, W).

    A pixel that is partly covered differs from the background in the direction of the colour, only less. Chroma alone
    is compared, so that an error of brightness does not matter.
    """
    chroma = above - above.mean(axis=2, keepdims=True)
    palette = np.asarray(list(COLOURS.values()), dtype=np.float64)
    palette -= palette.mean(axis=1, keepdims=True)
    palette /= np.linalg.norm(palette, axis=1, keepdims=True)
    nearest = (chroma @ palette.T).argmax(axis=2)
    return np.where(np.ptp(above, axis=2) >= CHROMA, nearest, -1)


def _fit(colour: str, above: Array, named: NDArray[np.int64], background: Array, size: int) -> Found:
    """Shape, size and place of the template nearest to the pixels of a colour."""
    full = np.asarray(COLOURS[colour]) - background
    share = np.clip(above @ full / (full @ full), 0.0, 1.0)
    number = list(COLOURS).index(colour)
    share = np.where((named == number) | ((named < 0) & (_near(named == number))), share, 0.0)
    bank = _templates(size)
    overlap = np.fft.irfft2(np.fft.rfft2(share)[None] * np.conj(bank.spectra), s=(size, size))
    # Dice's coefficient with squares in place of counts: 1 exactly where the picture is the template.
    agreement = 2 * overlap.max(axis=(1, 2)) / (float((share**2).sum()) + bank.power)
    best = int(agreement.argmax())
    row, column = np.unravel_index(int(overlap[best].argmax()), (size, size))
    x, y = (_peak(line, at) for line, at in ((overlap[best][row], column), (overlap[best][:, column], row)))
    shape, radius = bank.kinds[best]
    # Templates are centred on the corner of pixel 0.
    return Found(colour, shape, x % size, y % size, radius, float(min(1.0, agreement[best])))


def _near(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels within two of the mask: edges too faint for a colour belong to the object."""
    return np.asarray(_box(_box(mask[..., None].astype(np.float64)))[..., 0] > 0)


def _peak(line: Array, at: np.intp | int) -> float:
    """Place of the maximum of a parabola through three values around `at`, on a circle."""
    left, middle, right = line[at - 1], line[at], line[(at + 1) % len(line)]
    curve = left - 2 * middle + right
    return float(at) + (0.0 if curve >= 0 else float(np.clip(0.5 * (left - right) / curve, -0.5, 0.5)))


@dataclass(frozen=True)
class _Bank:
    """Templates of all shapes and sizes: (shape, radius), spectra (K, H, W // 2 + 1), sums of squares (K,)."""

    kinds: tuple[tuple[str, float], ...]
    spectra: NDArray[np.complex128]
    power: Array


@cache
def _templates(size: int) -> _Bank:
    low, high = RADIUS
    radii = np.linspace(0.95 * low, 1.05 * high, RADII) * size
    kinds = tuple((shape, float(radius)) for shape in SHAPES for radius in radii)
    corner = (np.zeros(1), np.zeros(1))
    drawn = np.concatenate([coverage(shape, radius, corner, size=size) for shape, radius in kinds])
    return _Bank(kinds, np.fft.rfft2(drawn), (drawn**2).sum(axis=(1, 2)))


@cache
def _area_of_smallest(size: int) -> float:
    corner = (np.zeros(1), np.zeros(1))
    return min(float(coverage(shape, RADIUS[0] * size, corner, size=size).sum()) for shape in SHAPES)
