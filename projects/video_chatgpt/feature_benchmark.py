"""Times the feature task against a plain loop over the same clips, and checks that both give the same features."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from common.data.cache import Cache
from common.progress import track
from common.types import Build
from common.video.benchmark import SUFFIXES
from projects.video_chatgpt.benchmark_clips import MovingClips
from projects.video_chatgpt.plain_features import PlainLoop

ROUNDING = 2.0**-10  # one step of float16, relative to the largest feature: patches are rounded, then their means
WARM_UP = 2  # clips

Features = dict[str, NDArray[np.float16]]


class Timed(NamedTuple):
    """What one side took and gave."""

    seconds: float
    features: Features


def feature_benchmark(
    *,
    root: str,
    folder: str | None,
    clips: int,
    draw: MovingClips,
    features: Build[dict[str, int]],
    plain: Build[PlainLoop],
    rounds: int,
) -> dict[str, float]:
    """Times `features.extract` against `plain_features.PlainLoop`, in turn, and prints a table.

    Every round runs both over all clips, in an order that changes from round to round, so that a machine that slows
    down does so for both. The time of the task is that of a whole call: weights, processes, shards, index. That of
    the loop includes a .npy file a clip, but not the loading of its weights. A warm-up on two clips is not counted.

    Args:
        root: folder for the clips that are made, and for what is written meanwhile, which is removed.
        folder: searched for video files with its subfolders; null for clips that are made.
        clips: how many to make, or to take at most.
        draw: makes them.
        features: recipe of the call of the task, less the clips and the cache.
        plain: recipe of the loop.
        rounds: counted rounds, > 0.

    Returns:
        `ratio`, the median over the rounds of the loop's time by the task's, `ratio_least`, `ratio_most`, the medians
        `task_clips_per_second` and `plain_clips_per_second`, `clips`, and `largest_difference` of their features.

    Raises:
        ValueError: no round, no clip, a clip that cannot be read, or features that differ by more than the rounding.
    """
    if rounds < 1 or clips < 1:
        raise ValueError(f"task.rounds={rounds}, task.clips={clips}: neither may be 0")
    media = Path(folder) if folder is not None else draw.make(Path(root), count=clips)
    names = _videos(media, clips)
    loop = plain()
    rates: list[tuple[float, float]] = []
    Path(root).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        sides = (partial(_time_task, features, media), partial(_time_loop, loop, media))
        for turn in track(range(rounds + 1), description="rounds, the first a warm-up"):
            chosen = names if turn else names[:WARM_UP]
            results = {side: sides[side](chosen, Path(scratch) / f"{turn}_{side}") for side in _order(turn)}
            largest = _largest_difference(results[0].features, results[1].features)
            if turn:
                rates.append((len(names) / results[0].seconds, len(names) / results[1].seconds))
    figures = _figures(rates) | {"clips": len(names), "largest_difference": largest}
    _print(figures, reader=loop.reader, rounds=rounds)
    return figures


def _order(turn: int) -> tuple[int, int]:
    return (0, 1) if turn % 2 else (1, 0)


def _videos(folder: Path, most: int) -> list[str]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"task.folder={folder} holds no video (looked for {', '.join(sorted(SUFFIXES))})")
    return [str(path.relative_to(folder)) for path in found[:most]]


def _time_task(features: Build[dict[str, int]], media: Path, names: Sequence[str], work: Path) -> Timed:
    """The task as it is called for annotations that name the clips."""
    work.mkdir()
    annotations = work / "annotations.json"
    turns = [{"role": "user", "content": "<video>"}]
    annotations.write_text(json.dumps([{"messages": turns, "videos": [name]} for name in names]))
    start = time.perf_counter()
    features(annotations=[str(annotations)], media=str(media), cache=str(work / "cache"))
    seconds = time.perf_counter() - start
    return Timed(seconds, {name: rows.numpy() for name, rows in Cache(work / "cache").items()})


def _time_loop(loop: PlainLoop, media: Path, names: Sequence[str], work: Path) -> Timed:
    work.mkdir()
    features = {}
    start = time.perf_counter()
    for number, name in enumerate(names):
        features[name] = loop(media / name)
        np.save(work / f"{number}.npy", features[name])
    return Timed(time.perf_counter() - start, features)


def _largest_difference(ours: Features, theirs: Features) -> float:
    """Greatest difference of any feature.

    Raises:
        ValueError: it is more than the rounding to float16 explains.
    """
    assert ours.keys() == theirs.keys()
    largest = 0.0
    for name, rows in ours.items():
        a, b = rows.astype(np.float32), theirs[name].astype(np.float32)
        difference = float(np.abs(a - b).max())
        allowed = ROUNDING * float(np.abs(b).max())
        if difference > allowed:
            raise ValueError(
                f"{name}: the features of the task and of the plain loop differ by {difference:.2g}, rounding explains "
                f"{allowed:.2g}; if that is decord's numbering of frames, compare with task.plain.reader=pyav"
            )
        largest = max(largest, difference)
    return largest


def _figures(rates: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Medians, and the range of the ratio, from clips a second of the task and of the loop in each round."""
    ratios = [task / loop for task, loop in rates]
    return {
        "ratio": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
        "task_clips_per_second": statistics.median(task for task, _ in rates),
        "plain_clips_per_second": statistics.median(loop for _, loop in rates),
    }


def _print(figures: dict[str, float], *, reader: str, rounds: int) -> None:
    title = f"features of {figures['clips']:.0f} clips, {rounds} rounds, {os.cpu_count()} cores"
    table = Table("", "clips/s", "ratio: median", "least", "most", title=title)
    table.add_row(f"plain loop ({reader})", f"{figures['plain_clips_per_second']:.2f}", "1", "", "")
    ratio = [f"{figures[key]:.2f}" for key in ("ratio", "ratio_least", "ratio_most")]
    table.add_row("task=clip_features", f"{figures['task_clips_per_second']:.2f}", *ratio)
    Console().print(table)
    Console().print(f"largest difference of a feature: {figures['largest_difference']:.2g}", highlight=False)
