"""The preparation task that encodes clips once, so that training reads latents and opens no video."""

from collections.abc import Sequence
from pathlib import Path

import torch

from common.data.cache import WHOLE, Part
from common.encoders.turns import copies_on, one_thread, pick_devices
from common.latent.vae import LatentCodec
from common.types import Build
from projects.text_to_video.buckets import parse
from projects.text_to_video.clip_frames import Crop, check
from projects.text_to_video.clip_lists import clip_lists
from projects.text_to_video.clip_survey import Videos, survey
from projects.text_to_video.latent_pipeline import Clips, clips_of, decode, encode, jobs_of, write
from projects.text_to_video.latent_plan import sort_out
from projects.text_to_video.latent_precision import precision
from projects.text_to_video.latent_result import Split, close
from projects.text_to_video.latent_store import Store

FILES = "files"  # folder of what was found out about the files of a split


def video_latents(
    *,
    table: str,
    media: str | None,
    cache: str,
    codec: Build[LatentCodec],
    fps: float,
    seconds: float,
    buckets: Sequence[Sequence[int]],
    crop: Crop,
    min_frames: int | None,
    logvar: bool,
    dtype: str,
    backend: str,
    shard_mib: float,
    frames_at_once: int,
    max_failed: float,
    num_workers: int,
    checked: int,
    devices: str | Sequence[str] = "auto",
    shard: str | None = None,
) -> dict[str, float]:
    """Latents of the first seconds of all clips of a list; see `video_latents` for where they lie.

    First the files are looked at, not decoded: their lengths and sizes decide on the buckets, and on the room that the
    result takes. Then loader processes decode and resize, one thread each, and the devices take turns at clips. A clip
    is encoded by itself, so on machines of one kind the bytes of a shard depend on the plan alone: not on the number of
    devices, workers or machines, nor on where an earlier try was killed. On a CPU an encoder runs on one thread, for
    sums split over threads differ in their last bits.

    Args:
        table: list of the clips, see `clip_lists`.
        media: folder of the videos; None for where the list says.
        cache: folder to fill, with one folder for each split; what is there already is kept.
        codec: recipe of the autoencoder.
        fps: frames a second, by presentation time.
        seconds: of each clip, from its start.
        buckets: [height, width] in pixels, or [height, width, frames] for fewer than seconds * fps.
        crop: "centre" or "squash", see `clip_frames`.
        min_frames: a clip that is shorter than all buckets is stored with its true length if it has so many frames;
            None leaves all those out. What is left out is listed in `skipped.jsonl`.
        logvar: store the log-variances behind the means.
        dtype: "bfloat16", "float16" or "float32".
        backend: video reader.
        shard_mib: size of a shard.
        frames_at_once: frames of a clip that go through the autoencoder together.
        max_failed: greatest share of the clips of a split that may be unreadable. Short ones do not count.
        num_workers: processes that look at files and decode, all devices together; 0 does it in this one.
        checked: clips of which some frames are decoded, from what is stored and from float32, to record what the
            storage costs; 0 for none.
        devices: "auto", a name or a list of names, see `pick_devices`.
        shard: "i/n" makes only the i-th part of the shards, i = 0 .. n - 1, for n machines that share the folder.

    Returns:
        Counts: clips that are stored, short ones and unreadable ones, frames that repeat the one before, clips encoded
        now, shards made now, and shards that are still missing (those of other machines); when none is, `decode_psnr`:
        of the checked clips the least, in dB, infinite where not a pixel differs.

    Raises:
        ValueError: a setting that is none, or more clips are unreadable than may be.
        ClipListError: the list is none.
        DiskSpaceError: the result does not fit on the disk.
        StaleCacheError: the folder holds a cache of other clips or settings.
    """
    check(crop, fps)
    part = WHOLE if shard is None else Part.parse(shard)
    places = pick_devices(devices)
    lists, where = clip_lists(table, media)
    root = Path(cache)
    with one_thread():
        encoder = codec(encoder_only=True)
        sizes = parse(buckets, frames=round(seconds * fps), multiple=encoder.factor)
        store = Store(encoder, fps=fps, crop=crop, logvar=logvar, dtype=dtype, backend=backend, shard_mib=shard_mib)
        splits = []
        for name, rows in lists.items():
            lengths = sorted({bucket.frames for bucket in sizes})
            videos = Videos(rows, media=where, fps=fps, lengths=lengths, backend=backend)
            seen = survey(root / name / FILES, videos, num_workers=num_workers, part=part)
            kept, skipped = sort_out(rows, seen, videos.paths, buckets=sizes, min_frames=min_frames)
            splits.append(Split(root / name, rows, store.targets(root / name, kept), skipped))
        store.tell(root, [each for split in splits for each in split.targets])
        jobs = jobs_of(splits, part)
        clips = Clips(clips_of(jobs), fps=fps, crop=crop, backend=backend)
        # Before a device is touched: the loader forks.
        pinned = any(place.type == "cuda" for place in places)
        decoded = decode(clips, count=len(clips), num_workers=num_workers, pin_memory=pinned)
        copies = _encoders(encoder, places) if jobs else [encoder]
        encoded = encode(decoded, copies, at_once=frames_at_once, logvar=logvar, dtype=dtype)
        figures: dict[str, float] = {"clips encoded": write(jobs, encoded), "shards made": len(jobs)}
        figures |= close(root, splits, fps=fps, max_failed=max_failed)
        if figures["shards missing"] or not checked:
            return figures
        return figures | precision(root, splits, videos=clips, codec=codec, device=places[0], count=checked)


def _encoders(encoder: LatentCodec, places: Sequence[torch.device]) -> list[LatentCodec]:
    """A copy on each device, with weights in the order that convolutions of tensor cores read."""
    copies = copies_on(encoder, places)
    for place, each in zip(places, copies, strict=True):
        if place.type == "cuda":
            each.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copies
