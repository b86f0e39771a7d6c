"""Writing weights as safetensors shards, one tensor in memory at a time.

The format (github.com/huggingface/safetensors, "Format") is a length, a JSON header and the bytes of the tensors one
after the other, so a shard can be written as soon as the shapes are known and before any tensor is.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from common.progress import track
from common.weights.source import DTYPES, Header

CODES = {dtype: code for code, dtype in DTYPES.items()}
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000


def write_shards(
    folder: Path,
    *,
    headers: Mapping[str, Header],
    read: Callable[[str], Tensor],
    max_shard_bytes: int = MAX_SHARD_BYTES,
    description: str = "weights",
) -> int:
    """Writes `model.safetensors`, or shards with their index.

    Args:
        folder: that is there; the caller makes it appear whole (`common.files.atomic_folder`).
        headers: shape and dtype of every tensor, in the order of writing.
        read: gives a tensor with the shape and dtype of its header; called once for each.
        max_shard_bytes: bound on the tensors of a shard; a greater tensor has a shard of its own.
        description: of the progress bar.

    Returns:
        Bytes of all tensors.
    """
    shards = divide(headers, max_shard_bytes=max_shard_bytes)
    names = iter(track([name for shard in shards for name in shard], description=description))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        single = "model.safetensors"
        file = single if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, file)
        with open(folder / file, "wb") as stream:
            _write_header(stream, {name: headers[name] for name in shard})
            for _ in shard:
                name = next(names)
                _write_tensor(stream, name, read(name), headers[name])
            stream.flush()
            os.fsync(stream.fileno())
    next(names, None)  # lets the bar close
    total = sum(header.nbytes for header in headers.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return total


def divide(headers: Mapping[str, Header], *, max_shard_bytes: int) -> list[list[str]]:
    """Names of the tensors of each shard, in order; inside a shard the widest numbers first, so that all are aligned.

    Raises:
        ValueError: no room for anything.
    """
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes={max_shard_bytes}: at least 1")
    shards: list[list[str]] = [[]]
    filled = 0
    for name, header in headers.items():
        if shards[-1] and filled + header.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += header.nbytes
    return [sorted(shard, key=lambda name: -headers[name].dtype.itemsize) for shard in shards]


def _write_header(stream: BinaryIO, headers: Mapping[str, Header]) -> None:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, header in headers.items():
        end = start + header.nbytes
        entries[name] = {"dtype": CODES[header.dtype], "shape": header.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    stream.write(len(text).to_bytes(8, "little") + text)


def _write_tensor(stream: BinaryIO, name: str, tensor: Tensor, header: Header) -> None:
    assert (tuple(tensor.shape), tensor.dtype) == (header.shape, header.dtype), name
    stream.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
