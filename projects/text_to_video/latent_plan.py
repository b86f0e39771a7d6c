"""Which clips go into which cache, what is left out and why, and how much room all that takes."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from common.data.cache import CacheWriter, Item, Settings
from common.disk import DiskSpaceError, free_bytes, human, shortage
from common.latent.vae import LatentCodec
from projects.text_to_video.buckets import Bucket, bucket_of
from projects.text_to_video.clip_lists import Listed
from projects.text_to_video.clip_survey import Seen

log = logging.getLogger(__name__)

SHORT, UNREADABLE = "short", "unreadable"


class Planned(NamedTuple):
    """A clip and the frames that are stored of it."""

    row: Listed
    frames: int
    repeated: int
    digest: str
    video: Path


class Skipped(NamedTuple):
    """A clip that is not stored: `kind` is "short" or "unreadable"."""

    id: str
    video: str
    kind: str
    reason: str


class Target(NamedTuple):
    """The cache of one bucket of one split, and its clips in the order of its entries."""

    bucket: Bucket
    writer: CacheWriter
    clips: Sequence[Planned]
    shard_size: int

    def shard(self, number: int) -> Sequence[Planned]:
        """The clips of a shard."""
        return self.clips[number * self.shard_size : (number + 1) * self.shard_size]


def sort_out(
    rows: Sequence[Listed],
    seen: Sequence[Seen],
    *,
    media: Path,
    buckets: Sequence[Bucket],
    min_frames: int | None,
) -> tuple[dict[Bucket, list[Planned]], list[Skipped]]:
    """Clips by bucket, and those that are left out; both in the order of the list."""
    kept: dict[Bucket, list[Planned]] = {}
    skipped = []
    for row, file in zip(rows, seen, strict=True):
        if file.reason:
            skipped.append(Skipped(row.id, row.video, UNREADABLE, file.reason))
            continue
        bucket = bucket_of(buckets, height=file.height, width=file.width, frames=file.frames, min_frames=min_frames)
        if bucket is None:
            least = min_frames or min(bucket.frames for bucket in buckets)
            skipped.append(Skipped(row.id, row.video, SHORT, f"gives {file.frames} frames of the {least} needed"))
            continue
        frames = min(file.frames, bucket.frames)
        repeated = file.repeated[str(bucket.frames)]
        kept.setdefault(bucket, []).append(Planned(row, frames, repeated, file.digest, media / row.video))
    return kept, skipped


def target(
    folder: Path, bucket: Bucket, clips: Sequence[Planned], *, settings: Settings, shard_bytes: int, frame_bytes: int
) -> Target:
    """The cache of a bucket, planned; a shard has as many clips of full length as `shard_bytes` hold.

    Raises:
        StaleCacheError: its folder holds a cache of other clips or settings.
    """
    size = max(1, shard_bytes // (bucket.frames * frame_bytes))
    items = [Item(clip.row.id, _key(clip, settings)) for clip in clips]
    return Target(bucket, CacheWriter(folder, items=items, settings=settings, shard_size=size), clips, size)


def _key(clip: Planned, settings: Settings) -> str:
    parts = json.dumps([clip.row.id, clip.digest, dict(settings)], sort_keys=True)
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def frame_bytes(codec: LatentCodec, bucket: Bucket, *, logvar: bool, dtype: str) -> int:
    """Of one stored frame."""
    cells = (bucket.height // codec.factor) * (bucket.width // codec.factor)
    return codec.channels * (1 + logvar) * cells * int(torch.empty(0, dtype=getattr(torch, dtype)).element_size())


def tell_size(root: Path, sizes: Mapping[str, int], *, clips: int, missing: int) -> None:
    """Says how large the result gets, before the work, and refuses what the disk cannot hold.

    Args:
        root: folder of the caches.
        sizes: bytes of a clip of full length by bucket, for the message.
        clips: that are stored in the end.
        missing: bytes that are still to be written, on all machines together.

    Raises:
        DiskSpaceError: they do not fit.
    """
    each = ", ".join(f"{name}: {human(size)} a clip" for name, size in sizes.items())
    log.info("latents of %d clips (%s); %s are to be written, %s are free in %s", clips, each, human(missing),
             human(free_bytes(root)), root)  # fmt: skip
    if problem := shortage(f"what is missing of the latents of {clips} clips ({each})", missing, root):
        raise DiskSpaceError(
            f"{problem}; give task.cache a larger disk, or smaller task.buckets, or a part of the clips in task.table"
        )


def index_rows(
    clips: Mapping[str, tuple[Bucket, Planned]], order: Sequence[Listed], fps: float
) -> list[dict[str, Any]]:
    """Rows of the index: of the clips that are stored, by id, in the order of the list."""
    rows = []
    for listed in order:
        if listed.id in clips:
            bucket, clip = clips[listed.id]
            told = {"frames": clip.frames, "bucket": bucket.name, "fps": fps, "repeated": clip.repeated}
            rows.append({"id": listed.id, "caption": listed.caption, **told, "video": listed.video, **listed.columns})
    return rows


def tally(skipped: Sequence[Skipped]) -> dict[str, int]:
    """How many clips are left out, by kind."""
    counts = Counter(each.kind for each in skipped)
    return {SHORT: counts[SHORT], UNREADABLE: counts[UNREADABLE]}
