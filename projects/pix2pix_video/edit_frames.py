"""The preparation task that turns clips with instructions into a set of edits on disk."""

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.files import atomic_write_text
from common.made import make_folder
from projects.pix2pix_video.arrow import write_set
from projects.pix2pix_video.frames import RECORD
from projects.pix2pix_video.rows import EditRow
from projects.pix2pix_video.sources.found import SPLITS, Found, Sample, Skipped, Source, SourceError
from projects.pix2pix_video.sources.windows import Anchor, Windows

log = logging.getLogger(__name__)
FORMAT = 1
SHOWN = 5  # clips left out that a message quotes


def make_edit_frames(
    *,
    source: Source,
    folder: str,
    history: int,
    gap: int,
    stride: int,
    step: int | None,
    anchor: Anchor,
    merge: Sequence[str],
    holdout: float,
    seed: int,
    max_skipped: float,
    workers: int,
) -> dict[str, Any]:
    """Writes the set, or finds it written.

    Args:
        source: where clips and instructions come from.
        folder: of the set. Beside the splits it gets `edits.json` (settings and counts) and `skipped.json`.
        history, gap, stride, step, anchor: which frames make a row; see `Windows`.
        merge: splits, of "val" and "test", whose rows go to "train". Each is filled again with rows held out of all
            these; one that the source lacks is made that way.
        holdout: share of the clips that each merged split keeps, > 0 and, all together, < 1; without a merge unused.
        seed: with the clip's name it decides whether a clip is held out; rows of one clip stay together.
        max_skipped: greatest share of clips that may be left out.
        workers: processes that read images and videos.

    Returns:
        Rows by split, and clips left out.

    Raises:
        ValueError: too many clips are left out (the list is written beside the folder), two rows have one id, a split
            would be empty, or the folder holds a set that was made otherwise.
    """
    windows = Windows(history=history, gap=gap, stride=stride, step=step, anchor=anchor)
    _check(merge, holdout, max_skipped)
    settings = {
        "format": FORMAT,
        **windows.settings(),
        "merge": sorted(merge),
        "holdout": holdout if merge else None,
        "seed": seed if merge else None,
        "identity": dict(source.identity()),
    }
    target = Path(folder)
    for leftover in target.parent.glob(f".{target.name}.*.part"):  # of a run that was killed
        shutil.rmtree(leftover)

    def make(temporary: Path) -> dict[str, Any]:
        found = source.collect(windows, workers=workers)
        _limit(found, max_skipped, target)
        splits = divide(found.samples, merge=merge, holdout=holdout, seed=seed)
        _check_rows(splits)
        write_set(temporary, splits, media=source.media, history=history)
        counts = {split: len(rows) for split, rows in splits.items()}
        tasks = {split: dict(sorted(Counter(row.task for row in rows).items())) for split, rows in splits.items()}
        record = {
            **{key: value for key, value in settings.items() if key != "identity"},
            "source": settings["identity"]["source"],
            "media": os.path.relpath(source.media.resolve(), target.resolve()),
            "counts": counts,
            "tasks": tasks,
            "clips": found.clips,
            "skipped": len(found.skipped),
        }
        (temporary / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        (temporary / "skipped.json").write_text(_listed(found.skipped))
        return {**counts, "clips": found.clips, "skipped": len(found.skipped)}

    return make_folder(target, source=settings, make=make)


def divide(samples: Sequence[Sample], *, merge: Sequence[str], holdout: float, seed: int) -> dict[str, list[EditRow]]:
    """Rows by split: the source's own, but for splits that are merged into train and filled again by a hold-out.

    A clip's place depends on its name and the seed alone: not on other clips, nor on the order of files.

    Raises:
        ValueError: a split would have no rows.
    """
    splits: dict[str, list[EditRow]] = {split: [] for split in SPLITS}
    pool = {"train", *merge} if merge else set()
    for sample in samples:
        splits[_place(sample.clip, merge, holdout, seed) if sample.split in pool else sample.split].append(sample.row)
    empty = [split for split in ("train", *merge) if not splits[split]]
    if empty:
        raise SourceError(
            f"no rows for {', '.join(empty)} out of {len(samples)}; "
            + ("change task.holdout or task.seed" if merge else "check the source's folder of that split")
        )
    return {split: rows for split, rows in splits.items() if rows}


def _place(clip: str, merge: Sequence[str], holdout: float, seed: int) -> str:
    number = int.from_bytes(hashlib.blake2b(f"{seed}/{clip}".encode(), digest_size=8).digest(), "big") / 2**64
    held = int(number / holdout)
    return sorted(merge)[held] if held < len(merge) else "train"


def _check(merge: Sequence[str], holdout: float, max_skipped: float) -> None:
    unknown = sorted(set(merge) - {"val", "test"})
    if unknown or len(set(merge)) < len(merge):
        raise ValueError(f"task.merge={list(merge)} may name val and test, each once")
    if merge and not 0 < holdout * len(merge) < 1:
        raise ValueError(
            f"task.holdout={holdout} must lie above 0, and below 1 for {len(merge)} merged splits together"
        )
    if not 0 <= max_skipped <= 1:
        raise ValueError(f"task.max_skipped={max_skipped} is a share from 0 to 1")


def _limit(found: Found, max_skipped: float, folder: Path) -> None:
    """Logs what is left out, and refuses more than may be."""
    for clip in found.skipped[:SHOWN]:
        log.warning("left out: %s (%s): %s", clip.id, clip.file, clip.reason)
    if len(found.skipped) > SHOWN:
        log.warning("left out: %d more", len(found.skipped) - SHOWN)
    if not found.clips:
        raise SourceError("the source holds no clips; check its folder and annotations")
    if len(found.skipped) > max_skipped * found.clips:
        listed = folder.with_name(f"{folder.name}_skipped.json")
        atomic_write_text(listed, _listed(found.skipped))
        first = found.skipped[0]
        raise SourceError(
            f"{len(found.skipped)} of {found.clips} clips are left out, more than task.max_skipped={max_skipped}; they "
            f"are listed in {listed}, the first: {first.file}: {first.reason}"
        )


def _listed(skipped: Sequence[Skipped]) -> str:
    return json.dumps([asdict(clip) for clip in skipped], indent=1, ensure_ascii=False) + "\n"


def _check_rows(splits: dict[str, list[EditRow]]) -> None:
    counts = Counter(row.id for rows in splits.values() for row in rows)
    name, times = counts.most_common(1)[0]
    if times > 1:
        raise SourceError(f"{times} rows are called {name}; the source lists a clip twice, take one out")
