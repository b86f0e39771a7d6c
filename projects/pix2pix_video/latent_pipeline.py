"""Decoding processes feed encoders with the pictures of a shard, each picture once.

Rows of one history, and windows that overlap, share pictures: equal pixels of a shard are encoded once. Batches are cut
within a shard from its distinct pictures in the order of their first appearance, so what comes out depends on the plan
and the files alone.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.cache import CacheWriter, Failure, Item
from common.encoders.turns import in_turn
from common.latent.vae import LatentCodec
from common.progress import track
from projects.pix2pix_video.frames import EditFrames, FrameError
from projects.pix2pix_video.latents import DTYPE

log = logging.getLogger(__name__)

ROWS_AHEAD = 4  # for each decoding process


class Shown(NamedTuple):
    """Pictures of a row, uint8 (T + 1, 3, S, S), and the identity of each."""

    pixels: Tensor
    names: list[bytes]


class Shard(NamedTuple):
    """A shard to make: its rows are those of `items`, numbered from `start`."""

    frames: EditFrames
    writer: CacheWriter
    number: int

    @property
    def items(self) -> Sequence[Item]:
        """Its entries."""
        return self.writer.shards[self.number]

    @property
    def start(self) -> int:
        """Number of its first row in the set."""
        return sum(len(shard) for shard in self.writer.shards[: self.number])


class Rows(Dataset[Shown | str]):
    """Pictures of each row, or the reason why they cannot be shown."""

    def __init__(self, rows: Sequence[tuple[EditFrames, int]]) -> None:
        self.rows = rows  # the set and the number of each

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Shown | str:
        frames, number = self.rows[index]
        try:
            pixels = frames.pixels(number)
        except FrameError as error:
            return f"{error.file}: {error.reason}"
        return Shown(pixels, [hashlib.blake2b(frame.numpy().tobytes(), digest_size=16).digest() for frame in pixels])


class Closed(NamedTuple):
    """A shard all of whose pictures are on their way, and the pictures of each of its rows, or why there are none."""

    shard: Shard
    rows: list[list[bytes] | str]


class Batch(NamedTuple):
    """Pictures that are encoded together, N of uint8 (3, S, S); N may be 0 where a shard ends."""

    names: list[bytes]
    pixels: list[Tensor]
    closed: Closed | None


class Encoded(NamedTuple):
    """Mean and log-variance of each picture, float16 (2, C, h, w), and the shard that ends with them."""

    latents: dict[bytes, Tensor]
    closed: Closed | None


def decode(shards: Sequence[Shard], *, num_workers: int) -> Iterator[Shown | str]:
    """Rows of the shards in their order, from processes that start here and now; then the progress bar ends."""
    rows = Rows([(each.frames, each.start + row) for each in shards for row in range(len(each.items))])
    workers = min(num_workers, len(rows))
    loader = DataLoader(rows, batch_size=None, num_workers=workers, prefetch_factor=ROWS_AHEAD if workers else None)
    return track(iter(loader), description="latents", total=len(rows))


def batches_of(shards: Iterable[Shard], decoded: Iterator[Shown | str], pictures_at_once: int) -> Iterator[Batch]:
    """The batches of the shards, one shard after the other."""
    for shard in shards:
        seen: set[bytes] = set()
        rows: list[list[bytes] | str] = []
        names: list[bytes] = []
        pixels: list[Tensor] = []
        for _ in shard.items:
            shown = next(decoded)
            rows.append(shown if isinstance(shown, str) else shown.names)
            for name, picture in _new(shown, seen):
                if len(names) == pictures_at_once:
                    yield Batch(names, pixels, None)
                    names, pixels = [], []
                names.append(name)
                pixels.append(picture)
        yield Batch(names, pixels, Closed(shard, rows))
    assert next(decoded, None) is None, "a row that belongs to no shard"


def _new(shown: Shown | str, seen: set[bytes]) -> Iterator[tuple[bytes, Tensor]]:
    """Pictures of a row that the shard has not had, in memory of their own: a loader's holds a file open."""
    if isinstance(shown, str):
        return
    for name, picture in zip(shown.names, shown.pixels, strict=True):
        if name not in seen:
            seen.add(name)
            yield name, picture.clone()


def encode(batches: Iterable[Batch], codecs: Sequence[LatentCodec]) -> Iterator[Encoded]:
    """Encodes batches in turn; yields in the order of the batches."""
    return in_turn(_latents, batches, codecs)


@torch.inference_mode()
def _latents(batch: Batch, codec: LatentCodec) -> Encoded:
    if not batch.names:
        return Encoded({}, batch.closed)
    device = next(codec.parameters()).device
    posterior = codec.encode(torch.stack(batch.pixels).to(device, non_blocking=True))
    stored = torch.stack(posterior, dim=1).to(DTYPE).cpu()
    if not stored.isfinite().all():
        raise ValueError(f"the autoencoder gives numbers that {DTYPE} cannot hold; give task.codec.dtype=float32")
    return Encoded(dict(zip(batch.names, stored, strict=True)), batch.closed)


def write(encoded: Iterable[Encoded]) -> int:
    """Writes each shard when its last batch is there.

    Returns:
        How many pictures were encoded.
    """
    count = 0
    latents: dict[bytes, Tensor] = {}
    for part in encoded:
        latents |= part.latents
        count += len(part.latents)
        if part.closed is not None:
            _write_shard(part.closed, latents)
            latents = {}
    return count


def _write_shard(closed: Closed, latents: dict[bytes, Tensor]) -> None:
    tensors, failures = {}, []
    for item, names in zip(closed.shard.items, closed.rows, strict=True):
        if isinstance(names, str):
            log.warning("%s: %s", item.name, names)
            failures.append(Failure(item.name, names))
        else:
            history = torch.stack([latents[name][0] for name in names[:-1]])
            tensors[item.key] = torch.cat([history, latents[names[-1]]])
    closed.shard.writer.write(closed.shard.number, tensors, failures)
