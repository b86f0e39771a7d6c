"""Decoding processes feed autoencoders on one or several devices, clip by clip, shard after shard."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.cache import Failure, Part
from common.encoders.turns import in_turn
from common.latent.vae import LatentCodec
from common.progress import track
from common.video.clip import VideoReadError
from projects.text_to_video.buckets import Bucket
from projects.text_to_video.clip_frames import Crop, clip_frames
from projects.text_to_video.latent_plan import Planned
from projects.text_to_video.latent_result import Split
from projects.text_to_video.latent_store import Target
from projects.text_to_video.video_latents import encode_clip

log = logging.getLogger(__name__)

CLIPS_AHEAD = 2  # for each decoding process; 64 frames of 512 pixels are 48 MiB


class Job(NamedTuple):
    """A shard to make."""

    target: Target
    number: int


class Clips(Dataset[Tensor | str]):
    """Frames of each clip, uint8 (F, 3, H, W), or the reason why they cannot be shown."""

    def __init__(self, clips: Sequence[tuple[Bucket, Planned]], *, fps: float, crop: Crop, backend: str) -> None:
        # Arrays, not a million objects: processes that count references to them would each end with a copy of all.
        self.paths = np.array([os.fsencode(clip.path) for _, clip in clips])
        self.shapes = np.array([(each.height, each.width, each.frames, clip.frames) for each, clip in clips])
        self.fps, self.crop, self.backend = fps, crop, backend

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        path = Path(os.fsdecode(self.paths[index]))
        height, width, most, expected = self.shapes[index].tolist()
        try:
            frames = clip_frames(
                path, fps=self.fps, frames=most, size=(height, width), crop=self.crop, backend=self.backend
            )
        except VideoReadError as error:
            return error.reason
        if len(frames) != expected:
            return f"gives {len(frames)} frames and gave {expected} when it was looked at: the file has changed"
        return frames


def jobs_of(splits: Iterable[Split], part: Part) -> list[Job]:
    """The shards of a part that are still to be made."""
    return [Job(each, number) for split in splits for each in split.targets for number in each.writer.missing(part)]


def clips_of(jobs: Iterable[Job]) -> list[tuple[Bucket, Planned]]:
    """The clips of the shards, one shard after the other."""
    return [(job.target.bucket, clip) for job in jobs for clip in job.target.shard(job.number)]


def decode(clips: Dataset[Tensor | str], *, count: int, num_workers: int, pin_memory: bool) -> Iterator[Tensor | str]:
    """All `count` clips in their order, from processes that start here and now; then the progress bar ends."""
    workers = min(num_workers, count)
    ahead = CLIPS_AHEAD if workers else None
    pin_memory = pin_memory and count > 0
    loader = DataLoader(clips, batch_size=None, num_workers=workers, prefetch_factor=ahead, pin_memory=pin_memory)
    return track(map(_own, iter(loader)), description="latents of clips", total=count)


def _own(clip: Tensor | str) -> Tensor | str:
    """A clip in memory of its own: a loader's shared one holds a file open, and of those there are 1024 at most."""
    return clip.clone() if isinstance(clip, Tensor) and clip.is_shared() else clip


def encode(
    decoded: Iterable[Tensor | str], codecs: Sequence[LatentCodec], *, at_once: int, logvar: bool, dtype: str
) -> Iterator[Tensor | str]:
    """Encodes clips in turn on the devices; yields in their order."""
    return in_turn(partial(_latents, at_once=at_once, logvar=logvar, dtype=dtype), decoded, codecs)


def _latents(clip: Tensor | str, codec: LatentCodec, *, at_once: int, logvar: bool, dtype: str) -> Tensor | str:
    if isinstance(clip, str):
        return clip
    return encode_clip(codec, clip, at_once=at_once, logvar=logvar, dtype=dtype)


def write(jobs: Iterable[Job], encoded: Iterator[Tensor | str]) -> int:
    """Writes each shard when its last clip is there; returns how many clips were encoded."""
    count = 0
    for target, number in jobs:
        tensors, failures = {}, []
        for item in target.writer.shards[number]:
            made = next(encoded)
            if isinstance(made, str):
                log.warning("%s: %s", item.name, made)
                failures.append(Failure(item.name, made))
            else:
                tensors[item.key] = made
        target.writer.write(number, tensors, failures)
        count += len(tensors)
    assert next(encoded, None) is None, "a clip that belongs to no shard"
    return count
