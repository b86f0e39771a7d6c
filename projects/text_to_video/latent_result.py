"""Closing a cache of latents: the index of each split, what was left out, and the figures."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.files import write_jsonl
from projects.text_to_video.clip_lists import Listed
from projects.text_to_video.latent_plan import SHORT, UNREADABLE, Skipped, index_rows, tally
from projects.text_to_video.latent_store import Target
from projects.text_to_video.video_latents import INDEX

log = logging.getLogger(__name__)

SKIPPED = "skipped.jsonl"


class Split(NamedTuple):
    """A split: its folder, the list that it was made from, its caches, and what was left out of them from the start."""

    folder: Path
    rows: Sequence[Listed]
    targets: Sequence[Target]
    skipped: Sequence[Skipped]


def close(root: Path, splits: Sequence[Split], *, fps: float, max_failed: float) -> dict[str, float]:
    """Writes `clips.jsonl` and `skipped.jsonl` of each split if no shard is missing; counts what is there.

    What killed writers have left half-written is removed then: nobody writes any more.

    Args:
        root: folder of the splits.
        splits: all of them.
        fps: that is recorded in the index.
        max_failed: greatest share of the clips of a split that may be unreadable.

    Raises:
        ValueError: more are; what was made stays, so that another try repeats nothing.
    """
    missing = sum(len(each.writer.missing()) for split in splits for each in split.targets)
    if missing:
        log.info("%d shards are left to other machines; the last of them writes the index", missing)
        return {"shards missing": missing}
    for leftover in root.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
    figures: dict[str, float] = {"clips": 0, SHORT: 0, UNREADABLE: 0, "frames": 0, "repeated frames": 0}
    for split in splits:
        for name, count in _close(split, fps=fps, max_failed=max_failed).items():
            figures[name] += count
    return figures | {"shards missing": 0}


def _close(split: Split, *, fps: float, max_failed: float) -> dict[str, int]:
    videos = {row.id: row.video for row in split.rows}
    failures = [failure for each in split.targets for failure in each.writer.finish(max_failed=1.0)]
    failed = [Skipped(each.name, videos[each.name], UNREADABLE, each.reason) for each in failures]
    skipped = [*split.skipped, *failed]
    write_jsonl(split.folder / SKIPPED, [each._asdict() for each in skipped])
    counts = tally(skipped)
    if counts[UNREADABLE] > max_failed * len(split.rows):
        raise ValueError(
            f"{counts[UNREADABLE]} of {len(split.rows)} clips cannot be read, more than the share {max_failed}; "
            f"see {split.folder / SKIPPED}, and repair or take out those, or raise task.max_failed"
        )
    left_out = {each.id for each in failed}
    stored = {
        clip.row.id: (each.bucket, clip) for each in split.targets for clip in each.clips if clip.row.id not in left_out
    }
    # Captions may be other ones than those of an earlier try: latents stay, the index is written anew.
    write_jsonl(split.folder / INDEX, index_rows(stored, split.rows, fps))
    kept = [clip for _, clip in stored.values()]
    frames, repeated = sum(clip.frames for clip in kept), sum(clip.repeated for clip in kept)
    return {"clips": len(kept), "frames": frames, "repeated frames": repeated, **counts}
