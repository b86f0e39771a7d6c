"""The clips of a data set: which rows of a cache or a list they are, in which bucket, and what is left out."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from projects.text_to_video.buckets import Bucket, bucket_named, bucket_to_train, parse
from projects.text_to_video.told import told

log = logging.getLogger(__name__)


class Clip(NamedTuple):
    """One captioned clip.

    Attributes:
        id: its name, also in the cache.
        caption: what the model is told of it.
        video: path relative to the media; "" where only its latents are there.
        frames: how many it has at the frame rate of training.
        shown: caption of its source, which is the same unless it was rewritten.
    """

    id: str
    caption: str
    video: str
    frames: int
    shown: str


class Chosen(NamedTuple):
    """The clips of a data set, and the number of each one's bucket."""

    clips: list[Clip]
    buckets: list[int]


def buckets_of(
    given: Sequence[Sequence[int]] | None, *, size: tuple[int, int], frames: int, key: str, length: str
) -> list[Bucket]:
    """Buckets of a training: those that are given, or the one of `size` and `frames`."""
    return parse([size] if given is None else given, frames=frames, multiple=1, key=key, length=length)


def latent_shape(bucket: Bucket, *, size: tuple[int, int], latent: Sequence[int], key: str) -> tuple[int, ...]:
    """(F, C, h, w) of the latents of a bucket, from what C, h, w are at `size`.

    Raises:
        ValueError: its sides are no whole numbers of cells.
    """
    sides = []
    for pixels, cells, whole in zip((bucket.height, bucket.width), latent[1:], size, strict=True):
        if pixels * cells % whole:
            raise ValueError(f"{key}: {bucket.name} has {pixels} pixels, no whole number of cells of {whole // cells}")
        sides.append(pixels * cells // whole)
    return bucket.frames, latent[0], *sides


def choose(
    rows: Sequence[Mapping[str, Any]],
    buckets: Sequence[Bucket],
    *,
    source: str,
    others: Mapping[str, int],
    captions: str | None,
    keep_originals: bool,
    count: int | None,
    split: str,
) -> Chosen:
    """Clips that training can use, in the order of the rows; what is left out is told.

    Args:
        rows: `id`, `caption`, `video`; of a cache also `bucket` and `frames`, without which the first bucket is taken.
        buckets: of the training.
        source: of the rows, for what is told.
        others: clips that the source has beside the rows, by name of their bucket.
        captions: folder of rewritten captions; None keeps those of the rows.
        keep_originals: whether a clip without one keeps its own.
        count: the first clips only.
        split: of the rows, for what is told.

    Raises:
        CaptionError: clips have no rewritten caption.
    """
    stored = {name: bucket_named(name) for name in {row["bucket"] for row in rows if "bucket" in row}}
    left, short = Counter(others), 0
    kept, numbers = [], []
    for row in rows:
        number: int | None = 0
        if "bucket" in row:
            bucket = stored[row["bucket"]]
            number = bucket_to_train(buckets, height=bucket.height, width=bucket.width, frames=row["frames"])
            if number is None:
                sizes = {(each.height, each.width) for each in buckets}
                short += (bucket.height, bucket.width) in sizes
                left[bucket.name] += (bucket.height, bucket.width) not in sizes
        if number is not None:
            kept.append(row)
            numbers.append(number)
    _tell(source, split, len(rows) + sum(others.values()), short, left, buckets)
    kept, numbers = kept[:count], numbers[:count]
    shown = [row["caption"] for row in kept]
    ids = [row["id"] for row in kept]
    chosen = told(ids, shown, rewritten=captions, keep_originals=keep_originals, key=f"data.{split}.captions")
    clips = [
        Clip(row["id"], caption, row["video"], row.get("frames", buckets[0].frames), row["caption"])
        for row, caption in zip(kept, chosen, strict=True)
    ]
    return Chosen(clips, numbers)


def refuse_sizes(buckets: Sequence[Bucket], stored: Iterable[str], *, source: str, split: str) -> None:
    """Raises ValueError where a cache with buckets of these names has none of the size of a bucket of the training."""
    sizes = {(each.height, each.width) for each in map(bucket_named, stored)}
    for bucket in buckets:
        if (bucket.height, bucket.width) not in sizes:
            there = ", ".join(f"{height}x{width}" for height, width in sorted(sizes))
            raise ValueError(
                f"data.{split}.buckets: {bucket.name}, but {source} has clips of {there}; take it out, or make them "
                "with `python -m launchers.prepare task=video_latents` and that size in task.buckets"
            )


def _tell(source: str, split: str, total: int, short: int, left: Mapping[str, int], buckets: Sequence[Bucket]) -> None:
    """What is not trained on is never left out silently."""
    if short:
        least = min(bucket.frames for bucket in buckets)
        log.warning(
            "%s: %d of %d clips are shorter than the buckets of their size (least %d frames) and left out; a bucket of "
            "fewer frames in data.%s.buckets takes them", source, short, total, least, split
        )  # fmt: skip
    if others := +Counter(left):
        named = ", ".join(f"{name}: {count}" for name, count in sorted(others.items()))
        log.warning(
            "%s: %d of %d clips are in other buckets (%s) and left out; name theirs in data.%s.buckets to train on "
            "them too", source, sum(others.values()), total, named, split
        )  # fmt: skip
