"""The preparation task that encodes a set once: latents of all frames, states of all prompts."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from common.data.cache import WHOLE, CacheWriter, Item, Part, Settings
from common.data.prompt_table import PromptTable
from common.encoders.text import ClipText
from common.encoders.turns import copies_on, one_thread, pick_devices
from common.files import digest
from common.latent.vae import LatentCodec
from common.progress import track
from common.types import Build
from projects.pix2pix_video.arrow import open_set
from projects.pix2pix_video.frames import Crop, EditFrames
from projects.pix2pix_video.latent_pipeline import Shard, batches_of, decode, encode, write
from projects.pix2pix_video.latent_precision import precision
from projects.pix2pix_video.latents import NULL, TEXT, settings_of

log = logging.getLogger(__name__)


def edit_latents(
    *,
    folder: str,
    media: str | None,
    cache: str,
    codec: Build[LatentCodec],
    text: Build[ClipText] | None,
    size: int,
    history: int,
    crop: Crop,
    shard_size: int,
    pictures_at_once: int,
    prompts_at_once: int,
    max_failed: float,
    num_workers: int,
    checked: int,
    devices: str | Sequence[str] = "auto",
    shard: str | None = None,
) -> dict[str, float]:
    """Posteriors of all frames of all splits, and the states of all prompts; see `latents` for where they lie.

    Loader processes decode and resize; the devices take turns at batches of uint8 pictures. On machines of one kind the
    bytes of a shard depend on the plan alone: not on the number of devices, workers or machines, nor on where an
    earlier try was killed. On a CPU an encoder runs on one thread, for sums split over threads differ in their last
    bits. Prompts are encoded, and one that is too long is refused, before any frame.

    Args:
        folder: of the set.
        media: folder of its frames; None for where the set says.
        cache: folder to fill; what is there already is kept.
        codec: recipe of the autoencoder.
        text: recipe of the text encoder; None leaves the prompts to be encoded in training.
        size: side of the square frames in pixels.
        history: T, frames a row.
        crop: "squash" or "centre".
        shard_size: rows a shard, within which equal pictures are encoded once.
        pictures_at_once: pictures that go through the encoder together.
        prompts_at_once: prompts likewise.
        max_failed: greatest share of the rows of a split that may fail.
        num_workers: decoding processes, all devices together; 0 decodes in this one.
        checked: targets that are decoded, from what is stored and from float32, to record what the storage costs; 0
            for none.
        devices: "auto", a name or a list of names, see `pick_devices`.
        shard: "i/n" makes only the i-th part of the shards, i = 0 .. n - 1, for n machines that share the folder.

    Returns:
        Counts of rows, of failures, of pictures encoded now, of shards made now and of shards that are still missing
        (those of other machines), and, when none is, `decode_psnr`: of the checked targets the least, in dB, infinite
        where not a pixel differs.

    Raises:
        ValueError: no such device or part, two rows of one id, too long a prompt, or more rows failed than may.
        SetError: no such set, or one of another history.
        StaleCacheError: the folder holds a cache of other rows or settings.
    """
    part = WHOLE if shard is None else Part.parse(shard)
    places = pick_devices(devices)
    splits = {
        split: EditFrames(folder=folder, split=split, media=media, size=size, history=history, crop=crop)
        for split in open_set(Path(folder))
    }
    root = Path(cache)
    with one_thread():
        tables = [] if text is None else [PromptTable(root / TEXT, encoder=text(), prompts=_prompts(splits), part=part)]
        encoder = codec(encoder_only=True)
        writers = {split: _writer(root / split, rows, encoder, shard_size) for split, rows in splits.items()}
        shards = [
            Shard(splits[split], writer, number) for split, writer in writers.items() for number in writer.missing(part)
        ]
        decoded = decode(shards, num_workers=num_workers)  # before a device is touched: the loader forks
        for table in tables:
            table.fill(places, at_once=prompts_at_once)
        pictures = write(encode(batches_of(shards, decoded, pictures_at_once), _encoders(encoder, places)))
        made = len(shards) + sum(len(table.missing) for table in tables)
        figures: dict[str, float] = {"pictures encoded": pictures, "shards made": made}
        figures |= _finish([*writers.values()], [table.writer for table in tables], max_failed=max_failed)
        if figures["shards missing"] or not checked:
            return figures
        return figures | precision(root, splits=splits, codec=codec, device=places[0], count=checked)


def _prompts(splits: dict[str, EditFrames]) -> list[str]:
    return sorted({NULL} | {row.instruction for frames in splits.values() for row in frames.rows})


def _writer(folder: Path, frames: EditFrames, encoder: LatentCodec, shard_size: int) -> CacheWriter:
    settings = settings_of(
        encoder, size=frames.size, crop=frames.crop, history=len(frames.rows[0].history), rows=frames.fingerprint
    )
    items = _items(frames, settings)
    if len({item.name for item in items}) < len(items):
        raise ValueError(f"split {frames.split} of {frames.folder} has rows with the same id; make the set anew")
    return CacheWriter(folder, items=items, settings=settings, shard_size=shard_size)


def _items(frames: EditFrames, settings: Settings) -> list[Item]:
    """Rows, each known by its files' ends and sizes; the targets are in the fingerprint of all rows."""
    known: dict[str, str] = {}
    items = []
    for row in track(frames.rows, description=f"files of {frames.split}"):
        for file in row.history:
            if file not in known:
                path = frames.media / file
                known[file] = digest(path) if path.is_file() else "missing"  # decoding it fails, and says so
        parts = json.dumps([row.id, [known[file] for file in row.history], dict(settings)], sort_keys=True)
        items.append(Item(row.id, hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()))
    return items


def _encoders(encoder: LatentCodec, places: Sequence[torch.device]) -> list[LatentCodec]:
    """A copy on each device, with weights in the order that convolutions of tensor cores read."""
    copies = copies_on(encoder, places)
    for place, each in zip(places, copies, strict=True):
        if place.type == "cuda":
            each.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copies


def _finish(splits: list[CacheWriter], prompts: list[CacheWriter], *, max_failed: float) -> dict[str, float]:
    """Finishes the caches that are whole; counts what is there."""
    missing = {writer.folder: writer.missing() for writer in (*splits, *prompts)}
    for writer in prompts:
        if not missing[writer.folder]:
            writer.finish(max_failed=0.0)
    rows = failed = 0
    for writer in splits:
        left = missing[writer.folder]
        found = len(writer.failures() if left else writer.finish(max_failed=max_failed))
        rows += sum(len(shard) for number, shard in enumerate(writer.shards) if number not in left) - found
        failed += found
    open_shards = sum(len(left) for left in missing.values())
    if open_shards:
        log.info("%d shards are left to other machines; the last of them writes the index", open_shards)
    return {"rows": rows, "failed": failed, "shards missing": open_shards}
