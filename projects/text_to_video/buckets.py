"""Sizes and lengths of clips that are trained on together, and which of them a clip belongs to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Bucket:
    """Clips of one size, of `frames` frames at most."""

    height: int
    width: int
    frames: int

    @property
    def name(self) -> str:
        """Of its folder: 512x512x64."""
        return f"{self.height}x{self.width}x{self.frames}"

    def distance(self, height: int, width: int) -> float:
        """Of aspect ratios: |log| of their quotient, rounded so that equal ones are equal."""
        return round(abs(math.log(self.width * height / (self.height * width))), 9)


def parse(
    given: Sequence[Sequence[int]],
    *,
    frames: int,
    multiple: int,
    key: str = "task.buckets",
    length: str = "task.seconds * task.fps",
) -> list[Bucket]:
    """Buckets of a configuration.

    Args:
        given: [height, width] or [height, width, frames] each.
        frames: of those that give none, and at most of any.
        multiple: what heights and widths have to be multiples of.
        key: that gives them, for the messages.
        length: what `frames` is from, likewise.

    Raises:
        ValueError: none, one of another form, one twice, or one that is longer than `frames`.
    """
    if frames < 1:
        raise ValueError(f"{length} gives no frame; raise it")
    for each in given:
        if len(each) not in (2, 3) or any(number < 1 for number in each):
            raise ValueError(f"{key}: {list(each)} is not [height, width] or [height, width, frames]")
        if any(side % multiple for side in each[:2]):
            raise ValueError(f"{key}: {list(each)}: the autoencoder takes sides that are multiples of {multiple}")
        if len(each) == 3 and each[2] > frames:
            raise ValueError(f"{key}: {list(each)} is longer than the {frames} frames of {length}")
    buckets = [Bucket(each[0], each[1], each[2] if len(each) == 3 else frames) for each in given]
    if not buckets or len(set(buckets)) < len(buckets):
        raise ValueError(f"{key}={[list(each) for each in given]}: give at least one, and none twice")
    return buckets


def bucket_of(
    buckets: Sequence[Bucket], *, height: int, width: int, frames: int, min_frames: int | None
) -> Bucket | None:
    """The bucket of a clip: of those that it fills, the nearest in aspect ratio, then the longest.

    Of several sizes the largest that need not be enlarged is taken, or else the smallest. A clip that fills no bucket
    goes to the shortest ones, if it has `min_frames`.

    Args:
        buckets: to choose from.
        height: of the source, in pixels.
        width: of the source, in pixels.
        frames: that the clip gives at the frame rate of the cache.
        min_frames: that a clip needs where it fills no bucket; None refuses those clips.

    Returns:
        The bucket; None for a clip that is too short.
    """
    filled = [bucket for bucket in buckets if bucket.frames <= frames]
    if not filled:
        if min_frames is None or frames < min_frames:
            return None
        shortest = min(bucket.frames for bucket in buckets)
        filled = [bucket for bucket in buckets if bucket.frames == shortest]

    def order(bucket: Bucket) -> tuple[float, int, bool, int]:
        enlarged = bucket.height > height or bucket.width > width
        area = bucket.height * bucket.width
        return bucket.distance(height, width), -bucket.frames, enlarged, area if enlarged else -area

    return min(filled, key=order)


def bucket_to_train(buckets: Sequence[Bucket], *, height: int, width: int, frames: int) -> int | None:
    """Number of the bucket that a stored clip is trained in: of those of its size the longest that it fills.

    Args:
        buckets: of the training.
        height: of the stored frames, in pixels.
        width: likewise.
        frames: that are stored of the clip.

    Returns:
        None for a clip of another size, or one that is shorter than all of its size.
    """
    fitting = [
        (bucket.frames, number)
        for number, bucket in enumerate(buckets)
        if (bucket.height, bucket.width) == (height, width) and bucket.frames <= frames
    ]
    return max(fitting)[1] if fitting else None


def bucket_named(name: str) -> Bucket:
    """The bucket of a folder, see `Bucket.name`."""
    height, width, frames = map(int, name.split("x"))
    return Bucket(height, width, frames)
