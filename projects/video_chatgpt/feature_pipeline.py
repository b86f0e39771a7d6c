"""Decoding processes feed encoders on one or several devices; what comes out does not depend on how many there are."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.cache import CacheWriter, Failure, Item
from common.encoders.clip import ClipPatches
from common.encoders.pooling import spatio_temporal
from common.encoders.turns import in_turn, runs
from common.progress import track
from common.video.decode import VideoReadError
from projects.video_chatgpt.data import frames

log = logging.getLogger(__name__)

CLIPS_AHEAD = 4  # for each decoding process


class Clips(Dataset[Tensor | str]):
    """Sampled frames of each video, or the reason why it cannot be read."""

    def __init__(self, paths: Sequence[Path], *, temporal: int, image_size: int, backend: str) -> None:
        self.paths, self.temporal, self.image_size, self.backend = paths, temporal, image_size, backend

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return frames(self.paths[index], temporal=self.temporal, image_size=self.image_size, backend=self.backend)
        except VideoReadError as error:
            return error.reason


class Batch(NamedTuple):
    """Clips of one shard that go through the tower together."""

    items: Sequence[Item]
    clips: Sequence[Tensor | str]  # uint8 (T', C, H, W), or the reason of a failure


class Encoded(NamedTuple):
    """Features of a batch by key, float16 (T + P, D) each, and what failed."""

    features: dict[str, Tensor]
    failures: list[Failure]


def decode(clips: Clips, *, num_workers: int, pin_memory: bool) -> Iterator[Tensor | str]:
    """Clips in their order, from processes that start here and now; then the progress bar ends."""
    workers = min(num_workers, len(clips))
    ahead = CLIPS_AHEAD if workers else None
    pin_memory = pin_memory and len(clips) > 0
    loader = DataLoader(clips, batch_size=None, num_workers=workers, prefetch_factor=ahead, pin_memory=pin_memory)
    return track(map(_own, iter(loader)), description="clip features", total=len(clips))


def _own(clip: Tensor | str) -> Tensor | str:
    """A clip in memory of its own: a loader's shared one holds a file open, and of those there are 1024 at most."""
    return clip.clone() if isinstance(clip, Tensor) and clip.is_shared() else clip


def batches_of(
    writer: CacheWriter, shards: Iterable[int], decoded: Iterator[Tensor | str], clips_at_once: int
) -> Iterator[Batch]:
    """The batches of the shards, one shard after the other."""
    for number in shards:
        for items in runs(writer.shards[number], clips_at_once):
            yield Batch(items, list(itertools.islice(decoded, len(items))))
    assert next(decoded, None) is None, "a clip that belongs to no shard"


def encode(batches: Iterable[Batch], towers: Sequence[ClipPatches], *, temporal: int) -> Iterator[Encoded]:
    """Encodes batches in turn on the towers; yields in the order of the batches."""
    return in_turn(partial(_features, temporal=temporal), batches, towers)


@torch.inference_mode()
def _features(batch: Batch, tower: ClipPatches, *, temporal: int) -> Encoded:
    """Encodes those of a batch that are clips in one pass."""
    pairs = list(zip(batch.items, batch.clips, strict=True))
    failures = [Failure(item.name, clip) for item, clip in pairs if isinstance(clip, str)]
    for failure in failures:
        log.warning("%s: %s", failure.name, failure.reason)
    clips = {item.key: clip for item, clip in pairs if isinstance(clip, Tensor)}
    if not clips:
        return Encoded({}, failures)
    pixels = torch.cat([clip.to(tower.mean.device, non_blocking=True) for clip in clips.values()])
    patches = tower(pixels[None])[0].split([len(clip) for clip in clips.values()])
    pooled = [spatio_temporal(frames_of_clip, temporal=temporal).half().cpu() for frames_of_clip in patches]
    return Encoded(dict(zip(clips, pooled, strict=True)), failures)
