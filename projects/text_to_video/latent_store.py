"""The caches that clips are stored in: what they are made with, their shards, and the room that they take."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from common.data.cache import CacheWriter, Item, Settings
from common.disk import DiskSpaceError, free_bytes, human, shortage
from common.latent.vae import LatentCodec
from projects.text_to_video.buckets import Bucket
from projects.text_to_video.clip_frames import Crop
from projects.text_to_video.latent_plan import Planned
from projects.text_to_video.video_latents import settings_of

log = logging.getLogger(__name__)

MIB = 1 << 20
DTYPES = ("bfloat16", "float16", "float32")


class Target(NamedTuple):
    """The cache of one bucket of one split, and its clips in the order of its entries."""

    bucket: Bucket
    writer: CacheWriter
    clips: Sequence[Planned]
    shard_size: int

    def shard(self, number: int) -> Sequence[Planned]:
        """The clips of a shard."""
        return self.clips[number * self.shard_size : (number + 1) * self.shard_size]


class Store:
    """How latents are stored."""

    def __init__(
        self,
        codec: LatentCodec,
        *,
        fps: float,
        crop: Crop,
        logvar: bool,
        dtype: str,
        backend: str | None,
        shard_mib: float,
    ) -> None:
        """
        Args:
            codec: the autoencoder of the latents.
            fps: frames a second.
            crop: of the frames.
            logvar: whether log-variances stand behind the means.
            dtype: "bfloat16", "float16" or "float32".
            backend: video reader; None where none was used.
            shard_mib: size of a shard.

        Raises:
            ValueError: another dtype, or shards of no size.
        """
        if dtype not in DTYPES or shard_mib <= 0:
            raise ValueError(f"task.dtype={dtype} task.shard_mib={shard_mib}: {', '.join(DTYPES)}; above 0")
        self.codec, self.fps, self.crop, self.logvar, self.dtype = codec, fps, crop, logvar, dtype
        self.backend, self.shard_bytes = backend, int(shard_mib * MIB)

    def frame_bytes(self, bucket: Bucket) -> int:
        """Of one stored frame."""
        cells = (bucket.height // self.codec.factor) * (bucket.width // self.codec.factor)
        return self.codec.channels * (1 + self.logvar) * cells * getattr(torch, self.dtype).itemsize

    def targets(self, folder: Path, kept: Mapping[Bucket, Sequence[Planned]]) -> list[Target]:
        """The caches of a split; a shard has as many clips of full length as its size holds.

        Raises:
            StaleCacheError: a folder holds a cache of other clips or settings.
        """
        return [self._target(folder / bucket.name, bucket, clips) for bucket, clips in sorted(kept.items())]

    def tell(self, root: Path, targets: Sequence[Target]) -> None:
        """Says how large the result gets, before the work, and refuses what the disk cannot hold.

        Raises:
            DiskSpaceError: what all machines together still have to write does not fit.
        """
        missing = sum(self._missing(each) for each in targets)
        clips = sum(len(each.clips) for each in targets)
        sizes = {each.bucket: each.bucket.frames * self.frame_bytes(each.bucket) for each in targets}
        told = ", ".join(f"{bucket.name}: {human(size)} a clip" for bucket, size in sorted(sizes.items()))
        total = human(sum(clip.frames * self.frame_bytes(each.bucket) for each in targets for clip in each.clips))
        free = human(free_bytes(root))
        log.info("latents of %d clips, %s in all (%s); %s to be written; %s free in %s", clips, total, told,
                 human(missing), free, root)  # fmt: skip
        if problem := shortage(f"what is missing of the latents of {clips} clips ({told})", missing, root):
            raise DiskSpaceError(f"{problem}; give task.cache on a larger disk, smaller task.buckets, or fewer clips")

    def _target(self, folder: Path, bucket: Bucket, clips: Sequence[Planned]) -> Target:
        settings = settings_of(
            self.codec,
            bucket=bucket,
            fps=self.fps,
            crop=self.crop,
            logvar=self.logvar,
            dtype=self.dtype,
            backend=self.backend,
        )
        size = max(1, self.shard_bytes // (bucket.frames * self.frame_bytes(bucket)))
        items = [Item(clip.row.id, _key(clip, settings)) for clip in clips]
        return Target(bucket, CacheWriter(folder, items=items, settings=settings, shard_size=size), clips, size)

    def _missing(self, target: Target) -> int:
        frames = sum(clip.frames for number in target.writer.missing() for clip in target.shard(number))
        return frames * self.frame_bytes(target.bucket)


def _key(clip: Planned, settings: Settings) -> str:
    parts = json.dumps([clip.row.id, clip.digest, dict(settings)], sort_keys=True)
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()
