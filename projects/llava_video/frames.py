"""The preparation task that decodes the frames of every clip once."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.cache import Cache, CacheWriter, Failure, Item, Settings, key_of
from common.data.conversations import Conversation, load_conversations, resolve_source
from common.progress import track
from common.video.clip import Source
from common.video.decode import VideoReadError
from common.video.plan import FramePlan
from common.video.transform import Mode
from projects.llava_video.data import shown_frames


class Clips(Dataset[Tensor | str]):
    """Frames of each video, or the reason why it cannot be read."""

    def __init__(
        self, sources: Sequence[Source], *, plan: FramePlan, image_size: int, resize_mode: Mode, backend: str
    ) -> None:
        self.sources, self.plan = sources, plan
        self.image_size, self.resize_mode, self.backend = image_size, resize_mode, backend

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Tensor | str:
        source = self.sources[index]
        try:
            count = self.plan.count(source, backend=self.backend)
            return shown_frames(
                source,
                plan=self.plan,
                count=count,
                image_size=self.image_size,
                resize_mode=self.resize_mode,
                backend=self.backend,
            )
        except VideoReadError as error:
            return error.reason


def _key(source: Path | tuple[Path, ...], name: str, settings: Settings) -> str:
    if isinstance(source, Path):
        return key_of(source, name=name, settings=settings)
    keys = [key_of(frame, name=name, settings=settings) for frame in source]
    return hashlib.blake2b("".join(keys).encode(), digest_size=16).hexdigest()


def cache_frames(
    *,
    annotations: Sequence[str],
    media: str,
    cache: str,
    plan: FramePlan,
    image_size: int,
    resize_mode: Mode,
    backend: str,
    shard_size: int,
    max_failed: float,
    num_workers: int,
) -> dict[str, int]:
    """Frames of the videos that the annotations name, as training sees them: uint8 (T, C, H, W) each.

    Args:
        annotations: files of conversations.
        media: folder that their video paths are relative to.
        cache: folder to fill.
        plan: which frames are shown.
        image_size: side that they are squashed to.
        resize_mode: "bicubic", "bilinear" or "nearest".
        backend: video reader.
        shard_size: clips a shard.
        max_failed: greatest share of videos that may fail to decode.
        num_workers: decoding processes.

    Returns:
        Counts of videos and of failures.
    """
    named: dict[str, Conversation] = {
        str(row.video): row for file in annotations for row in load_conversations(Path(file)) if row.video is not None
    }
    sources = {name: resolve_source(Path(media), row) for name, row in sorted(named.items())}
    settings: Settings = {"image_size": image_size, "resize": resize_mode, "plan": repr(plan), "backend": backend}
    items = [Item(name, _key(source, name, settings)) for name, source in sources.items()]
    writer = CacheWriter(Path(cache), items=items, settings=settings, shard_size=shard_size)
    missing = writer.missing()
    wanted = [sources[item.name] for number in missing for item in writer.shards[number]]
    clips = Clips(wanted, plan=plan, image_size=image_size, resize_mode=resize_mode, backend=backend)
    loader = DataLoader(clips, batch_size=None, num_workers=num_workers, prefetch_factor=4 if num_workers else None)
    results = iter(track(loader, description="decoding", total=len(wanted)))
    with torch.inference_mode():
        for number in missing:
            made = {item: next(results) for item in writer.shards[number]}
            failed = [Failure(item.name, clip) for item, clip in made.items() if isinstance(clip, str)]
            writer.write(number, {item.key: clip for item, clip in made.items() if isinstance(clip, Tensor)}, failed)
    failures = writer.finish(max_failed=max_failed)
    return {"videos": len(Cache(Path(cache))), "failed": len(failures), "shards made": len(missing)}
