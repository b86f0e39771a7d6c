"""Which clips go into which bucket, what is left out and why, and the index of what is stored."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from projects.text_to_video.buckets import Bucket, bucket_of
from projects.text_to_video.clip_lists import Listed
from projects.text_to_video.clip_survey import Seen

SHORT, UNREADABLE = "short", "unreadable"


class Planned(NamedTuple):
    """A clip and the frames that are stored of it."""

    row: Listed
    frames: int
    repeated: int
    digest: str
    path: Path


class Skipped(NamedTuple):
    """A clip that is not stored: `kind` is "short" or "unreadable"."""

    id: str
    video: str
    kind: str
    reason: str


def sort_out(
    rows: Sequence[Listed],
    seen: Sequence[Seen],
    paths: Sequence[Path],
    *,
    buckets: Sequence[Bucket],
    min_frames: int | None,
) -> tuple[dict[Bucket, list[Planned]], list[Skipped]]:
    """Clips by bucket, and those that are left out; both in the order of the list."""
    kept: dict[Bucket, list[Planned]] = {}
    skipped = []
    for row, file, path in zip(rows, seen, paths, strict=True):
        if file.reason:
            skipped.append(Skipped(row.id, row.video, UNREADABLE, file.reason))
            continue
        bucket = bucket_of(buckets, height=file.height, width=file.width, frames=file.frames, min_frames=min_frames)
        if bucket is None:
            least = min_frames or min(bucket.frames for bucket in buckets)
            skipped.append(Skipped(row.id, row.video, SHORT, f"gives {file.frames} frames of the {least} needed"))
            continue
        frames = min(file.frames, bucket.frames)
        repeated = file.repeated.get(str(bucket.frames), 0)
        kept.setdefault(bucket, []).append(Planned(row, frames, repeated, file.digest, path))
    return kept, skipped


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
