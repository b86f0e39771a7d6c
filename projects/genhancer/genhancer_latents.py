"""The preparation task that encodes rows once: latents of targets, and class embeddings for the first stage."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.data.cache import WHOLE, CacheWriter, Item, Part, Settings
from common.encoders.tower import ContrastiveTower
from common.encoders.turns import copies_on, one_thread, pick_devices
from common.latent.vae import LatentCodec
from common.types import Build
from projects.genhancer.caches import EMBEDDINGS, LATENT_DTYPE, LATENTS, latent_settings, tower_settings
from projects.genhancer.crops import Crops
from projects.genhancer.latent_pipeline import Shard, Split, embeddings_of, fill, latents_of
from projects.genhancer.media import Media

log = logging.getLogger(__name__)


def genhancer_latents(
    *,
    media: Mapping[str, Build[Media]],
    crops: Mapping[str, Crops],
    cache: str,
    codec: Build[LatentCodec] | None,
    tower: Build[ContrastiveTower] | None,
    size: int,
    target: int,
    shard_size: int,
    pictures_at_once: int,
    max_failed: float,
    num_workers: int,
    devices: str | Sequence[str] = "auto",
    shard: str | None = None,
) -> dict[str, float]:
    """Fills <cache>/<split>/latents and <cache>/<split>/embeddings, or what is missing of them; see `caches`.

    All frames of a row are encoded in each of its fixed crops. On a CPU an encoder runs on one thread, for sums split
    over threads differ in their last bits.

    Args:
        media: recipe of the rows of each split.
        crops: fixed ones of each split, the same as its data set has.
        cache: folder to fill; what is there already is kept.
        codec: recipe of the autoencoder; None for no latents.
        tower: recipe of the tower; None for no embeddings. They serve the first stage alone: in the second the tower
            learns.
        size: side in pixels of what the tower is shown.
        target: side in pixels of what is rebuilt.
        shard_size: rows a shard.
        pictures_at_once: pictures that go through an encoder together.
        max_failed: greatest share of the rows of a split that may be unreadable; they are listed in `failures.json`.
        num_workers: decoding processes; 0 decodes in this one.
        devices: "auto", a name or a list of names, see `pick_devices`.
        shard: "i/n" makes only the i-th part of the shards, i = 0 .. n - 1, for n machines that share the folder.

    Returns:
        Rows, failures, pictures encoded now, shards made now, and shards that are missing (those of other machines).

    Raises:
        ValueError: crops that are not fixed or of other splits, a tower of another size, or too many failures.
        StaleCacheError: the folder holds a cache of other rows or settings.
    """
    part = WHOLE if shard is None else Part.parse(shard)
    places = pick_devices(devices)
    _check(media, crops)
    rows = {split: (recipe(), crops[split]) for split, recipe in media.items()}
    plan = Plan(Path(cache), rows, shard_size, part)
    how: dict[str, Any] = {"at_once": pictures_at_once, "num_workers": num_workers}
    encoded = 0
    with one_thread():
        if codec is not None:
            encoder = codec(encoder_only=True)
            stored = {"vae_dtype": _name(encoder.dtype), "dtype": _name(LATENT_DTYPE)}
            shards = plan.shards(LATENTS, target, {**latent_settings(encoder), **stored})
            encoded += fill(shards, copies_on(encoder, places), latents_of, description=LATENTS, **how)
        if tower is not None:
            seeing = tower()
            if seeing.image_size != size:
                raise ValueError(f"task.size={size}, and the tower sees {seeing.image_size} pixels; set it to that")
            shards = plan.shards(EMBEDDINGS, size, {**tower_settings(seeing), "dtype": "float32"})
            encoded += fill(shards, copies_on(seeing, places), embeddings_of, description=EMBEDDINGS, **how)
    return {"pictures encoded": encoded, "shards made": plan.made, **_finish(plan.writers, max_failed=max_failed)}


class Plan:
    """Which shards of which caches there are, and which of them are to be made here."""

    def __init__(self, root: Path, rows: Mapping[str, tuple[Media, Crops]], shard_size: int, part: Part) -> None:
        """
        Args:
            root: folder of all caches.
            rows: of each split, and their crops.
            shard_size: rows a shard.
            part: of the shards.
        """
        self.root, self.rows, self.shard_size, self.part = root, rows, shard_size, part
        self.writers: list[CacheWriter] = []
        self.made = 0

    def shards(self, kind: str, size: int, settings: Settings) -> list[Shard]:
        """The shards of one kind that are to be made, of all splits."""
        found = []
        for split, (media, crops) in self.rows.items():
            whole = {**settings, "size": size, "rows": media.fingerprint, **crops.settings()}
            writer = CacheWriter(
                self.root / split / kind, items=_items(media, whole), settings=whole, shard_size=self.shard_size
            )
            self.writers.append(writer)
            found += [Shard(Split(media, crops, size, writer), number) for number in writer.missing(self.part)]
        self.made += len(found)
        return found


def _check(media: Mapping[str, Any], crops: Mapping[str, Crops]) -> None:
    if set(media) != set(crops):
        raise ValueError(f"task.media names {sorted(media)}, task.crops {sorted(crops)}; give both for each split")
    drawn = [split for split, each in crops.items() if each.count is None]
    if drawn:
        raise ValueError(f"task.crops.{drawn[0]}.count=null: what is cached is of fixed crops; give their number")


def _items(media: Media, settings: Settings) -> list[Item]:
    """Rows by their names; the fingerprint of all rows is in the settings."""
    told = json.dumps(dict(settings), sort_keys=True)
    names = [media.name(number) for number in range(len(media))]
    return [Item(name, hashlib.blake2b(f"{name}\n{told}".encode(), digest_size=16).hexdigest()) for name in names]


def _finish(writers: Sequence[CacheWriter], *, max_failed: float) -> dict[str, int]:
    """Finishes the caches that are whole; counts what is there."""
    rows = failed = left = 0
    for writer in writers:
        missing = writer.missing()
        found = len(writer.failures() if missing else writer.finish(max_failed=max_failed))
        rows += sum(len(shard) for number, shard in enumerate(writer.shards) if number not in missing) - found
        failed, left = failed + found, left + len(missing)
    if left:
        log.info("%d shards are left to other machines; the last of them writes the index", left)
    return {"rows": rows, "failed": failed, "shards missing": left}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
