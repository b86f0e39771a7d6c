"""The preparation task that caches spatio-temporal CLIP features of every video."""

import logging
from collections.abc import Sequence
from pathlib import Path

from common.data.cache import WHOLE, CacheWriter, Item, Part, Settings, key_of
from common.data.conversations import load_conversations, resolve_media
from common.encoders.clip import ClipPatches
from common.encoders.turns import copies_on, one_thread, pick_devices, runs
from common.types import Build
from projects.video_chatgpt.feature_pipeline import Clips, batches_of, decode, encode

log = logging.getLogger(__name__)


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
    devices: str | Sequence[str] = "auto",
    shard: str | None = None,
) -> dict[str, int]:
    """Features of the videos that the annotations name, as the published code computes them: float16 (T + P, D) each.

    Loader processes decode, one thread each, and shrink the frames; the devices take turns at batches of uint8 pixels.
    A batch is cut within a shard and encoded whole by one device, and the encoder runs on one thread where it runs on
    a CPU (sums split over threads differ in their last bits). So on machines of one kind the bytes of a shard depend
    on the plan alone: not on the number of devices, workers or machines, nor on where an earlier try was killed.

    Args:
        annotations: files of conversations.
        media: folder that their video paths are relative to.
        cache: folder to fill; what is there already is kept.
        encoder: recipe of the vision tower.
        temporal: frames a clip at most, and temporal tokens.
        backend: video reader.
        shard_size: clips a shard.
        clips_at_once: clips whose frames go through the tower together.
        max_failed: greatest share of videos that may fail to decode.
        num_workers: decoding processes, all devices together; 0 decodes in this one.
        devices: "auto" (every CUDA device, or else the CPU once a core), or names such as [cuda:0, cuda:2]. A name
            may be repeated: [cpu, cpu] is two encoders of one thread.
        shard: "i/n" makes only the i-th part of the shards, i = 0 .. n - 1, for n machines that share the folder.

    Returns:
        Counts of videos, of failures, of shards made now and of shards that are still missing (those of other
        machines). Without a missing one the cache is finished; else this task is to be run again when the others are.

    Raises:
        ValueError: there is no such device or part, or more videos failed than may; the list of them is named.
        StaleCacheError: the folder holds the features of other videos or settings.
    """
    part = WHOLE if shard is None else Part.parse(shard)
    places = pick_devices(devices)
    located = _locate(annotations, Path(media))
    with one_thread():
        tower = encoder()
        settings = _settings(tower, temporal=temporal, backend=backend)
        items = [Item(name, key_of(path, name=name, settings=settings)) for name, path in located.items()]
        writer = CacheWriter(Path(cache), items=items, settings=settings, shard_size=shard_size)
        missing = writer.missing(part)
        paths = [located[item.name] for number in missing for item in writer.shards[number]]
        clips = Clips(paths, temporal=temporal, image_size=tower.image_size, backend=backend)
        # Before a device is touched: the loader forks.
        decoded = decode(clips, num_workers=num_workers, pin_memory=any(place.type == "cuda" for place in places))
        batches = batches_of(writer, missing, decoded, clips_at_once)
        encoded = encode(batches, copies_on(tower, places), temporal=temporal)
        for number in missing:
            parts = [next(encoded) for _ in runs(writer.shards[number], clips_at_once)]
            features = {key: tensor for made, _ in parts for key, tensor in made.items()}
            writer.write(number, features, [failure for _, failures in parts for failure in failures])
        assert next(encoded, None) is None, "a batch that belongs to no shard"
    return _figures(writer, made=len(missing), max_failed=max_failed)


def _locate(annotations: Sequence[str], media: Path) -> dict[str, Path]:
    """Files of the videos, by name, in the order of the names."""
    located = {
        str(row.video): resolve_media(media, row)
        for file in annotations
        for row in load_conversations(Path(file))
        if row.video is not None
    }
    return dict(sorted(located.items()))


def _settings(tower: ClipPatches, *, temporal: int, backend: str) -> Settings:
    """What the features depend on, besides the videos."""
    return {
        "encoder": tower.identity,
        "encoder_dtype": str(next(tower.parameters()).dtype).removeprefix("torch."),
        "layer": tower.layer,
        "temporal": temporal,
        "image_size": tower.image_size,
        "resize": "nearest",
        "sampling": "midpoint",
        "dtype": "float16",
        "backend": backend,
    }


def _figures(writer: CacheWriter, *, made: int, max_failed: float) -> dict[str, int]:
    """Finishes the cache if it is whole; counts what is there."""
    missing = writer.missing()
    if missing:
        log.info("%d shards are left to other machines; the last of them writes the index", len(missing))
    failed = len(writer.failures() if missing else writer.finish(max_failed=max_failed))
    entries = sum(len(shard) for number, shard in enumerate(writer.shards) if number not in missing)
    return {"videos": entries - failed, "failed": failed, "shards made": made, "shards missing": len(missing)}
