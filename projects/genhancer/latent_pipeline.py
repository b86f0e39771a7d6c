"""Loader processes decode and crop rows; encoders take turns at batches of their pictures; shards are written whole.

Batches are cut within a shard from the pictures of its rows in their order, so what is written depends on the plan and
the files alone: not on the number of processes, devices or machines.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from common.data.cache import CacheWriter, Failure
from common.data.tar import TarError
from common.encoders.tower import ContrastiveTower
from common.encoders.turns import in_turn
from common.latent.vae import LatentCodec
from common.progress import track
from common.video.clip import VideoReadError
from projects.genhancer.caches import LATENT_DTYPE
from projects.genhancer.crops import Crops, cut
from projects.genhancer.media import Media

log = logging.getLogger(__name__)
E = TypeVar("E", bound=nn.Module)
ROWS_AHEAD = 2  # for each decoding process


@dataclass(frozen=True)
class Split:
    """Rows of one split, which crops of them, and the cache that they go to."""

    media: Media
    crops: Crops
    size: int
    writer: CacheWriter


class Shard(NamedTuple):
    """A shard to make."""

    split: Split
    number: int

    @property
    def rows(self) -> range:
        """Its rows, by their numbers in the media."""
        start = sum(len(shard) for shard in self.split.writer.shards[: self.number])
        return range(start, start + len(self.split.writer.shards[self.number]))


class Pictures(Dataset[Tensor | str]):
    """All frames of each row in all its crops, uint8 (R, F, 3, S, S), or the reason why they cannot be read."""

    def __init__(self, rows: Sequence[tuple[Split, int]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor | str:
        split, number = self.rows[index]
        try:
            frames = split.media.show(number, lambda seconds: range(len(seconds))).frames
        except (VideoReadError, TarError) as error:
            return str(error)
        height, width = frames.shape[1:3]
        name, count = split.media.name(number), split.crops.count
        assert count is not None, "what is cached is of fixed crops"
        boxes = [split.crops.fixed(height, width, name=name, number=crop) for crop in range(count)]
        return torch.stack([cut(frames, box, size=split.size) for box in boxes])


class Batch(NamedTuple):
    """Pictures that are encoded together, uint8 (N, 3, S, S), and the shard that ends with them."""

    pixels: Tensor
    closed: "Closed | None"


class Closed(NamedTuple):
    """A shard all of whose pictures are on their way, and of each row the shape (R, F), or why it has none."""

    shard: Shard
    rows: list[tuple[int, int] | str]


def fill(
    shards: Sequence[Shard],
    encoders: Sequence[E],
    work: Callable[[Tensor, E], Tensor],
    *,
    at_once: int,
    num_workers: int,
    description: str,
) -> int:
    """Makes shards one after the other.

    Args:
        shards: to be made.
        encoders: that take turns.
        work: what one makes of pictures.
        at_once: pictures that it is given together, at most.
        num_workers: decoding processes.
        description: a few words for the progress.

    Returns:
        How many pictures were encoded.
    """
    pictures = Pictures([(shard.split, row) for shard in shards for row in shard.rows])
    workers = min(num_workers, len(pictures))
    loader = DataLoader(pictures, batch_size=None, num_workers=workers, prefetch_factor=ROWS_AHEAD if workers else None)
    decoded = track(iter(loader), description=description, total=len(pictures))
    count, made = 0, list[Tensor]()
    for entries, closed in in_turn(_encoder(work), _batches(shards, decoded, at_once), encoders):
        if len(entries):
            made.append(entries)
            count += len(entries)
        if closed is not None:
            _write(closed, torch.cat(made) if made else entries)
            made = []
    return count


def _batches(shards: Iterable[Shard], decoded: Iterator[Tensor | str], at_once: int) -> Iterator[Batch]:
    for shard in shards:
        rows: list[tuple[int, int] | str] = []
        waiting: list[Tensor] = []
        for _ in shard.rows:
            found = next(decoded)
            rows.append(found if isinstance(found, str) else (found.shape[0], found.shape[1]))
            if not isinstance(found, str):
                waiting += found.flatten(0, 1).clone()  # a loader's memory holds a file open
            while len(waiting) > at_once:
                yield Batch(torch.stack(waiting[:at_once]), None)
                waiting = waiting[at_once:]
        size = shard.split.size
        last = torch.stack(waiting) if waiting else torch.empty(0, 3, size, size, dtype=torch.uint8)
        yield Batch(last, Closed(shard, rows))


def _encoder(work: Callable[[Tensor, E], Tensor]) -> Callable[[Batch, E], tuple[Tensor, Closed | None]]:
    @torch.inference_mode()
    def encode(batch: Batch, encoder: E) -> tuple[Tensor, Closed | None]:
        if not len(batch.pixels):
            return torch.empty(0), batch.closed
        device = next(encoder.parameters()).device
        return work(batch.pixels.to(device, non_blocking=True), encoder).cpu(), batch.closed

    return encode


def latents_of(pixels: Tensor, codec: LatentCodec) -> Tensor:
    """Mean and log-variance of pictures, unscaled, as they are stored: (N, 2 C, h, w).

    Raises:
        ValueError: a number that the dtype of the cache cannot hold.
    """
    stored = torch.cat([*codec.encode(pixels)], dim=1).to(LATENT_DTYPE)
    if not stored.isfinite().all():
        raise ValueError(
            f"the autoencoder gives numbers that {LATENT_DTYPE} cannot hold; give task.codec.dtype=float32"
        )
    return stored


def embeddings_of(pixels: Tensor, tower: ContrastiveTower) -> Tensor:
    """Class embeddings of pictures, float32 (N, D)."""
    return tower.images(pixels)


def _write(closed: Closed, entries: Tensor) -> None:
    tensors, failures, start = {}, [], 0
    writer = closed.shard.split.writer
    for item, row in zip(writer.shards[closed.shard.number], closed.rows, strict=True):
        if isinstance(row, str):
            log.warning("%s: %s", item.name, row)
            failures.append(Failure(item.name, row))
            continue
        crops, frames = row
        end = start + crops * frames
        tensors[item.key] = entries[start:end].unflatten(0, row).contiguous()
        start = end
    assert start == len(entries), "pictures of no row"
    writer.write(closed.shard.number, tensors, failures)
