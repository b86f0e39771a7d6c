"""The preparation task that caches spatio-temporal CLIP features of every video."""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.cache import Cache, CacheWriter, Failure, Item, Settings, key_of
from common.data.conversations import load_conversations, resolve_media
from common.encoders.clip import ClipPatches
from common.encoders.pooling import spatio_temporal
from common.progress import track
from common.types import Build
from common.video.decode import VideoReadError
from projects.video_chatgpt.data import frames

log = logging.getLogger(__name__)


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


def extract(
    *,
    annotations: Sequence[str],
    media: str,
    cache: str,
    encoder: Build[ClipPatches],
    temporal: int,
    backend: str,
    shard_size: int,
    clips_at_once: int,
    max_failed: float,
    num_workers: int,
    device: str,
) -> dict[str, int]:
    """Features of the videos that the annotations name, as the published code computes them: float16 (T + P, D) each.

    Frames are decoded by loader processes while the encoder works on the clip before; pixels travel as uint8.

    Args:
        annotations: files of conversations.
        media: folder that their video paths are relative to.
        cache: folder to fill.
        encoder: recipe of the vision tower.
        temporal: frames a clip at most, and temporal tokens.
        backend: video reader.
        shard_size: clips a shard.
        clips_at_once: clips whose frames go through the tower together.
        max_failed: greatest share of videos that may fail to decode.
        num_workers: decoding processes.
        device: "auto", "cpu", "cuda" or "cuda:<n>".

    Returns:
        Counts of videos and of failures.
    """
    folder = Path(cache)
    located = {
        str(row.video): resolve_media(Path(media), row)
        for file in annotations
        for row in load_conversations(Path(file))
        if row.video is not None
    }
    tower = encoder().to(_device(device))
    settings: Settings = {
        "encoder": tower.identity,
        "layer": tower.layer,
        "temporal": temporal,
        "image_size": tower.image_size,
        "resize": "nearest",
        "sampling": "midpoint",
        "dtype": "float16",
        "backend": backend,
    }
    items = [Item(name, key_of(path, name=name, settings=settings)) for name, path in sorted(located.items())]
    writer = CacheWriter(folder, items=items, settings=settings, shard_size=shard_size)
    missing = writer.missing()
    wanted = [item for number in missing for item in writer.shards[number]]
    clips = Clips(
        [located[item.name] for item in wanted], temporal=temporal, image_size=tower.image_size, backend=backend
    )
    loader = DataLoader(clips, batch_size=None, num_workers=num_workers, prefetch_factor=4 if num_workers else None)
    results = iter(track(loader, description="clip features", total=len(wanted)))
    for number in missing:
        tensors: dict[str, Tensor] = {}
        failed: list[Failure] = []
        for batch in batched(writer.shards[number], clips_at_once):
            made, refused = _features(batch, results, tower, temporal)
            tensors |= made
            failed += refused
        writer.write(number, tensors, failed)
    failures = writer.finish(max_failed=max_failed)
    return {"videos": len(Cache(folder)), "failed": len(failures), "shards made": len(missing)}


@torch.inference_mode()
def _features(
    items: Sequence[Item], results: Iterator[Tensor | str], tower: ClipPatches, temporal: int
) -> tuple[dict[str, Tensor], list[Failure]]:
    """Takes the next results for `items` and encodes those that are clips in one pass."""
    taken = dict(zip(items, islice(results, len(items)), strict=True))
    failures = [Failure(item.name, clip) for item, clip in taken.items() if isinstance(clip, str)]
    clips = {item.key: clip for item, clip in taken.items() if isinstance(clip, Tensor)}
    if not clips:
        return {}, failures
    pixels = torch.cat(list(clips.values())).to(tower.mean.device, non_blocking=True)
    patches = tower(pixels[None])[0].split([len(clip) for clip in clips.values()])
    pooled = [spatio_temporal(frames_of_clip, temporal=temporal).half().cpu() for frames_of_clip in patches]
    return dict(zip(clips, pooled, strict=True)), failures


def batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Runs of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
