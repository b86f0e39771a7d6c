"""Writing weights and reading them back: what is on the disk is what was meant, bit by bit."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from common.progress import track
from common.weights.shards import write_shards
from common.weights.source import Header, Weights


def write_weights(
    folder: Path,
    *,
    headers: Mapping[str, Header],
    read: Callable[[str], Tensor],
    max_shard_bytes: int,
    description: str = "weights",
) -> int:
    """Writes `model.safetensors`, or shards with their index, then reads every tensor back; one is in memory at a time.

    Args:
        folder: that is there.
        headers: shape and dtype of every tensor.
        read: gives a tensor, the same at each call; called twice for each.
        max_shard_bytes: bound on a shard.
        description: of the progress bars.

    Returns:
        Bytes of all tensors.

    Raises:
        OSError: what was written does not read back equal.
    """
    size = write_shards(folder, headers=headers, read=read, max_shard_bytes=max_shard_bytes, description=description)
    written = Weights(folder)
    names = track(list(headers), description=f"{description}: read back")
    refuse_difference(folder, found=written.headers, wanted=names, read_back=written.read, read=read)
    return size


def refuse_difference(
    path: Path,
    *,
    found: Collection[str],
    wanted: Iterable[str],
    read_back: Callable[[str], Tensor],
    read: Callable[[str], Tensor],
) -> None:
    """Compares what was written with what was meant, bit by bit.

    Args:
        path: for the message.
        found: names that were written.
        wanted: names that were meant.
        read_back: gives a written tensor.
        read: gives the tensor that was meant.

    Raises:
        OSError: a name too many or too few, or another dtype, shape or content.
    """
    compared = set()
    for name in wanted:
        compared.add(name)
        if name not in found or not _equal(read_back(name), read(name)):
            raise OSError(f"{path}: {name} does not read back as it was written; check the disk and export again")
    if compared != set(found):
        raise OSError(f"{path} holds {', '.join(sorted(set(found) - compared))}, which was not written; export again")


def _equal(left: Tensor, right: Tensor) -> bool:
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    return torch.equal(left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8))
