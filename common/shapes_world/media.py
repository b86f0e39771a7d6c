"""Draws and encodes the missing files of the data set, several at once; a file is whole or absent."""

import io
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.files import atomic_write_bytes
from common.progress import track
from common.shapes_world.edits import Edit, draw_edits
from common.shapes_world.pairs import draw_pair
from common.shapes_world.render import render
from common.shapes_world.scene import draw_scene
from common.video.write import write_h264

FEW = 64  # items that are not worth starting processes for


@dataclass(frozen=True)
class Look:
    """What the media have in common; the arguments of `dataset.write` of the same names."""

    seed: int
    size: int
    frames: int
    fps: float
    crf: int
    history: int
    lead: int


@dataclass(frozen=True)
class Item:
    """One item of one kind ("clips", "edits" or "pairs"), and the folder that its files go into."""

    kind: str
    root: Path
    split: str
    index: int

    @property
    def names(self) -> tuple[str, ...]:
        """Its files relative to the root; the last is written last."""
        stem = f"{self.kind}/{self.split}/{self.index:06d}"
        if self.kind == "clips":
            return (f"{stem}.mp4",)
        if self.kind == "edits":
            return (f"{stem}_first.png", f"{stem}_second.png", f"{stem}.mp4")
        return (f"{stem}_first.png", f"{stem}_second.png")


def write_missing(items: Sequence[Item], look: Look, *, workers: int | None = None) -> int:
    """Writes the files of the items that are not there yet.

    Args:
        items: what must be there.
        look: how it looks.
        workers: processes; by default one for each processor. The result does not depend on it.

    Returns:
        How many items were written now.
    """
    for folder in {(item.root / item.names[0]).parent for item in items}:
        for leftover in folder.glob(".*.part"):  # of a run that was killed
            leftover.unlink()
    missing = [item for item in items if not all((item.root / name).exists() for name in item.names)]
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    jobs = [(item, look) for item in missing]
    if workers == 1 or len(jobs) <= FEW:
        for job in track(jobs, description="drawing and encoding"):
            _write(job)
        return len(jobs)
    # Not fork: the caller may hold threads (torch) that a forked child would wait for.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        results = pool.map(_write, jobs, chunksize=16)
        for _ in track(results, description="drawing and encoding", total=len(jobs)):
            pass
    return len(jobs)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


def _write(job: tuple[Item, Look]) -> None:
    item, look = job
    WRITERS[item.kind](item, look)


def _write_clip(item: Item, look: Look) -> None:
    scene = draw_scene(seed=look.seed, split=item.split, index=item.index, size=look.size, frames=look.frames)
    write_h264(item.root / item.names[0], render(scene), fps=look.fps, crf=look.crf)


def _write_edits(item: Item, look: Look) -> None:
    edits = draw_history(look, item.split, item.index)
    for name, edit in zip(item.names[:2], edits, strict=True):
        _write_png(item.root / name, edit.target(size=look.size))
    write_h264(item.root / item.names[2], edits[0].history(size=look.size), fps=look.fps, crf=look.crf)


def _write_pair(item: Item, look: Look) -> None:
    pictures = draw_pair(seed=look.seed, split=item.split, index=item.index).draw(size=look.size)
    for name, picture in zip(item.names, pictures, strict=True):
        _write_png(item.root / name, picture)


def draw_history(look: Look, split: str, index: int) -> tuple[Edit, Edit]:
    """The two edits of one history in this look."""
    return draw_edits(seed=look.seed, split=split, index=index, size=look.size, frames=look.history, lead=look.lead)


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    atomic_write_bytes(path, buffer.getvalue())


WRITERS: dict[str, Callable[[Item, Look], None]] = {
    "clips": _write_clip,
    "edits": _write_edits,
    "pairs": _write_pair,
}
