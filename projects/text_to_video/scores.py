"""Whether generated clips show what their captions say."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.metrics.gather import gathered
from common.metrics.interval import Estimate, mean, wilson
from common.shapes_world.scene import COLOURS, DIRECTIONS, SHAPES
from common.shapes_world.tracker import Track, track
from common.types import Build

ATTRIBUTES = {"colour": len(COLOURS), "shape": len(SHAPES), "direction": len(DIRECTIONS)}
SIMILARITY = "clip_similarity"
THING = re.compile(r"\ba (\w+) (\w+) moves (\w+)")


@dataclass(frozen=True)
class Told:
    """One object as a caption tells it."""

    colour: str
    shape: str
    direction: str


def things_of(caption: str) -> list[Told]:
    """The objects that a caption of the built-in world names.

    Raises:
        ValueError: it names none, or what the world does not have.
    """
    things = [Told(*match) for match in THING.findall(caption)]
    known = all(t.colour in COLOURS and t.shape in SHAPES and t.direction in DIRECTIONS for t in things)
    if not things or not known:
        raise ValueError(f'"{caption}" is no caption of the built-in world; set model.world=false')
    return things


def hits(clip: Tensor, caption: str) -> dict[str, bool]:
    """Which attributes of all objects of a caption a clip shows; an object that is not found misses all three.

    The tracker gives each object of the caption the track that agrees with it most. `joint` is all three at once.

    Args:
        clip: uint8 (F, 3, H, W), 0..255.
        caption: of the built-in world.
    """
    tracks = track(clip.permute(0, 2, 3, 1).contiguous().cpu().numpy())
    found = dict.fromkeys(ATTRIBUTES, True)
    for thing in things_of(caption):
        best = max(tracks, key=lambda each: sum(_agrees(each, thing).values()), default=None)
        agrees = dict.fromkeys(ATTRIBUTES, False) if best is None else _agrees(best, thing)
        found = {name: found[name] and agrees[name] for name in ATTRIBUTES}
    return {**found, "joint": all(found.values())}


def _agrees(seen: Track, told: Told) -> dict[str, bool]:
    return {name: getattr(seen, name) == getattr(told, name) for name in ATTRIBUTES}


class ClipScores:
    """What generated clips show of what was asked for, with 95 % intervals.

    Of the built-in world, the share of clips with the right colour, shape and direction, found by a tracker; with a
    CLIP, the mean similarity of clip and caption (`common.encoders.clip_score`).
    """

    def __init__(self, *, world: bool, clip: Build[nn.Module] | None = None) -> None:
        """
        Args:
            world: whether captions are of the built-in world.
            clip: recipe of `common.encoders.clip_score.ClipSimilarity`; None leaves that column out.
        """
        self.world, self.make_clip = world, clip
        self._clip: nn.Module | None = None
        self._tables: dict[str, dict[str, dict[str, bool | float]]] = {}
        self._report: dict[str, dict[str, Estimate]] = {}

    @property
    def wanted(self) -> bool:
        """Whether there is anything to score."""
        return self.world or self.make_clip is not None

    def start(self, views: Sequence[str], device: torch.device) -> None:
        """Begins an epoch over the views."""
        self._tables = {view: {} for view in views}
        if self.make_clip is not None and self._clip is None:
            self._clip = self.make_clip().to(device)

    def update(self, view: str, *, ids: Sequence[str], captions: Sequence[str], clips: Tensor) -> None:
        """Adds clips of a view, uint8 (B, F, 3, H, W)."""
        assert clips.dtype == torch.uint8, clips.dtype
        rows: list[dict[str, bool | float]] = [{} for _ in ids]
        if self.world:
            rows = [{**hits(clip, caption)} for clip, caption in zip(clips, captions, strict=True)]
        if self._clip is not None:
            for row, value in zip(rows, self._clip(clips, captions).tolist(), strict=True):
                row[SIMILARITY] = value
        self._tables[view].update(zip(ids, rows, strict=True))

    def finish(self) -> dict[str, float]:
        """Ends the epoch on all ranks together; the columns of the first view, for the log."""
        self._report = {}
        for view, table in self._tables.items():
            rows = list(gathered(table).values())
            if rows:
                self._report[view] = {name: _estimate([row[name] for row in rows]) for name in rows[0]}
        first = next(iter(self._report.values()), {})
        return {name: cell.value for name, cell in first.items()}

    def report(self) -> Mapping[str, Mapping[str, Estimate | float]]:
        """Columns by view of the last epoch, and what guessing would reach for one object."""
        if not self._report or not self.world:
            return self._report
        chance = {name: 1 / options for name, options in ATTRIBUTES.items()}
        return {**self._report, "chance": {**chance, "joint": math.prod(chance.values())}}


def _estimate(values: Sequence[bool | float]) -> Estimate:
    """A share of yes and no, or a mean."""
    if isinstance(values[0], bool):
        return wilson(sum(map(bool, values)), len(values))
    return mean(sum(values), sum(value * value for value in values), len(values))
