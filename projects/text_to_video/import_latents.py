"""The preparation task that brings latents of earlier code into a cache, without their videos."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch

from common.data.cache import WHOLE, Part
from common.latent.vae import LatentCodec
from common.types import Build
from projects.text_to_video.buckets import Bucket
from projects.text_to_video.clip_frames import Crop, check
from projects.text_to_video.clip_lists import Listed
from projects.text_to_video.clip_survey import Seen, survey
from projects.text_to_video.clip_table import Holdout
from projects.text_to_video.clips import Clip
from projects.text_to_video.latent_pipeline import clips_of, decode, jobs_of, write
from projects.text_to_video.latent_plan import sort_out
from projects.text_to_video.latent_result import Split, close
from projects.text_to_video.latent_store import Store
from projects.text_to_video.old_latents import OldClips, OldFiles, files_in, read_old

log = logging.getLogger(__name__)

FILES = "files"  # folder of what was found out about the files
TRIED = 16  # clips whose spread is measured
USUAL = (0.4, 2.5)  # spread of scaled latents; scaling is chosen for 1


def import_latents(
    *,
    folder: str,
    cache: str,
    codec: Build[LatentCodec],
    scaled: bool,
    fps: float,
    size: Sequence[int],
    frames: int,
    crop: Crop,
    min_frames: int | None,
    dtype: str,
    shard_mib: float,
    holdout: Mapping[str, float],
    seed: int,
    max_failed: float,
    num_workers: int,
    shard: str | None = None,
) -> dict[str, float]:
    """Latents of files as `old_latents` describes them, in caches as `task=video_latents` makes them.

    The files do not say what they were made with: the autoencoder, the frame rate, the size and the crop are those
    that are stated here, and are recorded. What is written is atomic, goes on after a kill with the same bytes, and its
    size is told, and refused where the disk cannot hold it, before the work.

    Args:
        folder: of the files.
        cache: folder to fill, with one folder for each split.
        codec: recipe of the autoencoder that made them.
        scaled: whether the numbers were multiplied by the scaling factor already; the published code did not.
        fps: frames a second.
        size: height and width of the frames in pixels.
        frames: F of the files.
        crop: "squash" in the published code, or "centre".
        min_frames: clips of fewer frames than F are stored with their true length if they have so many; None leaves
            them out. Zeros behind the true length are never stored.
        dtype: to store.
        shard_mib: size of a shard.
        holdout: shares of "val" and "test"; the rest is "train".
        seed: of the hold-out.
        max_failed: greatest share of the files of a split that may be unreadable.
        num_workers: processes that read.
        shard: "i/n" makes only the i-th part of the shards, i = 0 .. n - 1.

    Returns:
        As `task=video_latents`, and `spread`: the standard deviation of the first latents, scaled; about 1 where
        the autoencoder and the scaling are those of the files.

    Raises:
        ValueError: as `task=video_latents`.
        FileNotFoundError: the folder holds no such files.
        DiskSpaceError: the result does not fit on the disk.
        StaleCacheError: the cache is one of other files or settings.
    """
    check(crop, fps)
    part = WHOLE if shard is None else Part.parse(shard)
    encoder = codec(encoder_only=True)
    bucket = Bucket(size[0], size[1], frames)
    shape = (frames, encoder.channels, bucket.height // encoder.factor, bucket.width // encoder.factor)
    root = Path(cache)
    files = OldFiles(files_in(Path(folder)), bucket, shape)
    store = Store(encoder, fps=fps, crop=crop, logvar=False, dtype=dtype, backend=None, shard_mib=shard_mib)
    seen = survey(root / FILES, files, num_workers=num_workers, part=part)
    splits = []
    for name, some in _split(seen, files.paths, Holdout(holdout, seed=seed)).items():
        rows = [Listed(each.id, path.name, each.caption, {}) for each, path in some]
        found, paths = [each for each, _ in some], [path for _, path in some]
        kept, skipped = sort_out(rows, found, paths, buckets=[bucket], min_frames=min_frames)
        splits.append(Split(root / name, rows, store.targets(root / name, kept), skipped))
    store.tell(root, [each for split in splits for each in split.targets])
    jobs = jobs_of(splits, part)
    scale = encoder.scaling_factor if scaled else 1.0
    clips = OldClips([clip for _, clip in clips_of(jobs)], shape=shape, scale=scale, dtype=dtype)
    written = write(jobs, decode(clips, count=len(clips), num_workers=num_workers, pin_memory=False))
    spread = _spread(seen, files, 1.0 if scaled else encoder.scaling_factor)
    figures: dict[str, float] = {"clips imported": written, "shards made": len(jobs), "spread": spread}
    return figures | close(root, splits, fps=fps, max_failed=max_failed)


def _split(seen: Sequence[Seen], paths: Sequence[Path], holdout: Holdout) -> dict[str, list[tuple[Seen, Path]]]:
    splits = defaultdict(list)
    for each, path in zip(seen, paths, strict=True):
        placed = holdout.place(Clip(id=each.id, video=path.name, caption=each.caption))
        splits[placed.split].append((each, path))
    return dict(splits)


def _spread(seen: Sequence[Seen], files: OldFiles, factor: float) -> float:
    """Standard deviation of the first clips, scaled; warns where another autoencoder or scaling is likely."""
    first = islice((path for each, path in zip(seen, files.paths, strict=True) if not each.reason), TRIED)
    latents = [read_old(path, shape=files.shape).latent.float().flatten() for path in first]
    spread = float(torch.cat(latents).std()) * factor if latents else 1.0
    if not USUAL[0] <= spread <= USUAL[1]:
        log.warning(
            "scaled latents of %s spread by %.3f, about 1 is usual: is task.scaled right, and task.codec the "
            "autoencoder that made them?",
            files.paths[0].parent,
            spread,
        )
    return spread
