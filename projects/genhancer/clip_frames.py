"""The preparation task that turns video files into tars of frames: whole clips, with times and labels.

A split is a folder of `shard_00000.tar` ..., in which a clip is `<key>.<k>.jpg` for each of its frames and
`<key>.json`, and of `clips.jsonl`, the same JSON of all its clips in the order of the tars.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from common.data.cache import WHOLE, Part
from common.data.tar import read_index, write_members
from common.files import atomic_file, atomic_write_text, read_jsonl, write_jsonl
from common.processes import each
from projects.genhancer.clip_media import TABLE
from projects.genhancer.clip_pictures import Crop, Look, Made, asdict_of, key_of, take
from projects.genhancer.clip_sources import ClipSource, SourceClip, SourceError
from projects.genhancer.samplers import Sampler

log = logging.getLogger(__name__)
FORMAT = 1
PLAN, RECORD, SKIPPED = "plan.json", "clips.json", "skipped.json"


class Shard(NamedTuple):
    """Some clips of a split, and where they go."""

    folder: Path
    number: int
    clips: list[SourceClip]

    @property
    def tar(self) -> Path:
        """The tar."""
        return self.folder / f"shard_{self.number:05d}.tar"

    @property
    def record(self) -> Path:
        """What became of its clips; it is written last, so that a shard that has it is whole."""
        return self.folder / f"shard_{self.number:05d}.jsonl"


def clip_frames(
    *,
    source: ClipSource,
    folder: str,
    fps: float | None,
    max_frames: int | None,
    min_change: float | None,
    sampler: Sampler | None,
    size: int | None,
    crop: Crop,
    quality: int,
    shard_size: int,
    max_skipped: float,
    workers: int,
    backend: str = "pyav",
    shard: str | None = None,
) -> dict[str, int]:
    """Writes the tars, or what is missing of them.

    A clip lies whole in one tar, and all its frames are resized and cropped alike. The bytes depend on the clips and
    the settings alone: not on the number of processes or machines, nor on where an earlier try was killed.

    Args:
        source: where the clips come from.
        folder: to fill, a folder for each split.
        fps, max_frames, min_change, sampler, size, crop, quality, backend: see `Look`.
        shard_size: clips a tar.
        max_skipped: greatest share of the clips that may give no frames; they are listed in `skipped.json`.
        workers: processes that decode.
        shard: "i/n" makes only the i-th part of the tars, i = 0 .. n - 1, for n machines that share the folder.

    Returns:
        Clips by split, frames, clips left out, tars made now, and tars that are missing (those of other machines).

    Raises:
        ValueError: the folder holds tars of other clips or settings, two clips have one name, or too many are left
            out.
    """
    look = Look(
        fps=fps,
        max_frames=max_frames,
        min_change=min_change,
        sampler=sampler,
        size=size,
        crop=crop,
        quality=quality,
        backend=backend,
    )
    part = WHOLE if shard is None else Part.parse(shard)
    root, clips = Path(folder), source.clips()
    shards = _plan(root, source, clips, look, shard_size)
    missing = [each for number, each in enumerate(shards) if number % part.count == part.index and not _made(each)]
    _fill(missing, source.folder, look, workers)
    left = [each for each in shards if not _made(each)]
    if left:
        log.info("%d tars are left to other machines; the last of them writes the tables", len(left))
        return {"tars made": len(missing), "tars missing": len(left)}
    return {**_finish(root, shards, look, max_skipped), "tars made": len(missing), "tars missing": 0}


def _plan(root: Path, source: ClipSource, clips: list[SourceClip], look: Look, shard_size: int) -> list[Shard]:
    """The shards, as the folder holds them or is to hold them."""
    if not clips or shard_size < 1:
        raise SourceError(f"{source.folder} lists {len(clips)} clips; task.shard_size={shard_size} must be 1 or more")
    names = Counter((clip.split, key_of(clip.id)) for clip in clips)
    (split, twice), count = names.most_common(1)[0]
    if count > 1:
        raise SourceError(f"{count} clips of {split} are called {twice}; the source lists one twice, take it out")
    plan = {
        "format": FORMAT,
        "look": look.settings(),
        "shard_size": shard_size,
        "identity": dict(source.identity()),
        "clips": len(clips),
        "files": _digest(source.folder, clips),
    }
    path = root / PLAN
    if path.is_file() and json.loads(path.read_text()) != json.loads(json.dumps(plan)):
        raise SourceError(f"{root} holds frames of other clips or settings; remove it, or choose another folder")
    if not path.is_file():
        atomic_write_text(path, json.dumps(plan, indent=1) + "\n")
    by_split: dict[str, list[SourceClip]] = {}
    for clip in clips:
        by_split.setdefault(clip.split, []).append(clip)
    return [
        Shard(root / split, number, found[start : start + shard_size])
        for split, found in by_split.items()
        for number, start in enumerate(range(0, len(found), shard_size))
    ]


def _digest(folder: Path, clips: Sequence[SourceClip]) -> str:
    """Of the names and sizes of the files, and of what is told of the clips."""
    state = hashlib.blake2b(digest_size=16)
    for clip in clips:
        path = folder / clip.file
        state.update(json.dumps([*clip, path.stat().st_size if path.is_file() else None]).encode())
    return state.hexdigest()


def _made(shard: Shard) -> bool:
    return shard.record.is_file()


def _fill(shards: Sequence[Shard], folder: Path, look: Look, workers: int) -> None:
    """Makes tars one after the other, while processes decode ahead."""
    jobs = [(clip, folder, look) for shard in shards for clip in shard.clips]
    made = each(_take, jobs, workers=workers, description="frames of clips")
    for shard in shards:
        _write(shard, islice(made, len(shard.clips)))
    assert next(made, None) is None, "a clip of no shard"


def _take(job: tuple[SourceClip, Path, Look]) -> Made | str:
    return take(*job)


def _write(shard: Shard, made: Iterator[Made | str]) -> None:
    """The tar, its index, and then its record."""
    rows: list[dict[str, Any]] = []
    with atomic_file(shard.tar) as file:
        write_members(file, _members(shard.clips, made, rows))
    read_index(shard.tar)
    write_jsonl(shard.record, rows)


def _members(
    clips: Sequence[SourceClip], made: Iterator[Made | str], rows: list[dict[str, Any]]
) -> Iterator[tuple[str, bytes]]:
    """Files of the tar; notes in `rows` what became of each clip."""
    for clip, found in zip(clips, made, strict=True):
        if isinstance(found, str):
            rows.append({**asdict_of(clip), "skipped": found})
            continue
        rows.append(found.row)
        key = found.row["key"]
        yield f"{key}.json", json.dumps(found.row, ensure_ascii=False).encode()
        yield from ((f"{key}.{number}.jpg", content) for number, content in enumerate(found.files))


def _finish(root: Path, shards: Sequence[Shard], look: Look, max_skipped: float) -> dict[str, int]:
    """Writes the tables of all splits; refuses where too many clips gave nothing."""
    by_split: dict[Path, list[dict[str, Any]]] = {}
    for shard in shards:
        by_split.setdefault(shard.folder, []).extend(read_jsonl(shard.record))
        for leftover in shard.folder.glob(".*.part"):  # of a run that was killed
            leftover.unlink(missing_ok=True)
    rows = [row for found in by_split.values() for row in found]
    skipped = [row for row in rows if "skipped" in row]
    atomic_write_text(root / SKIPPED, json.dumps(skipped, indent=1, ensure_ascii=False) + "\n")
    for row in skipped[:5]:
        log.warning("left out: %s: %s", row["source"], row["skipped"])
    if len(skipped) > max_skipped * len(rows):
        raise SourceError(
            f"{len(skipped)} of {len(rows)} clips give no frames, more than task.max_skipped={max_skipped:g}; they are "
            f"listed in {root / SKIPPED}, the first: {skipped[0]['source']}: {skipped[0]['skipped']}"
        )
    counts = {}
    for folder, found in by_split.items():
        kept = [row for row in found if "skipped" not in row]
        write_jsonl(folder / TABLE, kept)
        counts[folder.name] = len(kept)
    frames = sum(len(row["seconds"]) for row in rows if "skipped" not in row)
    figures = {**counts, "frames": frames, "skipped": len(skipped)}
    atomic_write_text(root / RECORD, json.dumps({"look": look.settings(), **figures}, indent=1) + "\n")
    return figures
