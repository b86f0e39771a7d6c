"""The published feature files, one pickle a video, into our cache, without running what a pickle could run.

`scripts/save_spatio_temporal_clip_features.py` of the original writes a bare float16 array (356, 1024): 100 rows of
frames, then 256 of patches, under the video's name up to its first dot.
"""

import io
import json
import logging
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.data.cache import Cache, CacheWriter, Failure, Item, Settings, fill, key_of
from common.progress import track

log = logging.getLogger(__name__)

# What a pickle adds to the numbers of an array. A file with more is not opened.
OVERHEAD = 4096


class PickleError(ValueError):
    """A pickle is not one numpy array, whole, of the right shape and dtype: names the file and what is wrong."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


class ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays of numbers and nothing else: no other name that a pickle mentions is ever looked up."""

    def find_class(self, module: str, name: str) -> Any:
        """The function behind a name, if arrays are made with it."""
        found = _KNOWN.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which no array needs")
        return found


# What stands in for the functions that an array's pickle calls. Instances without attributes, because a pickle may also
# set attributes of whatever it names.


class _Array:
    """In place of numpy.ndarray, which an array's pickle only hands on."""

    __slots__ = ()


class _Empty:
    """An array of no elements, whose state follows."""

    __slots__ = ()

    def __call__(self, kind: object, shape: tuple[int, ...], code: bytes | str) -> NDArray[Any]:
        if not isinstance(kind, _Array) or shape != (0,):
            raise pickle.UnpicklingError("it begins with something else than an empty array")
        return np.empty(0, dtype=np.int8)


class _Dtype:
    """A dtype of numbers; a copy, because its byte order is set afterwards."""

    __slots__ = ()

    def __call__(self, code: str, *_: object) -> np.dtype[Any]:
        made = np.dtype(str(code), False, True)
        if made.kind not in "fiu":
            raise pickle.UnpicklingError(f"it holds {made}, not numbers")
        return made


class _Latin1:
    """Bytes as protocol 2 and below write them."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it holds bytes written as {encoding}")
        return text.encode("latin1")


class _FromBytes:
    """An array as protocol 5 writes it."""

    __slots__ = ()

    def __call__(self, data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> NDArray[Any]:
        return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


_KNOWN: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _Empty(),
    ("numpy.core.numeric", "_frombuffer"): _FromBytes(),
    ("numpy", "ndarray"): _Array(),
    ("numpy", "dtype"): _Dtype(),
    ("_codecs", "encode"): _Latin1(),
}
# What a pickle that is cut off or made up runs into.
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    MemoryError,
)


def read_pickled_array(path: Path, *, shape: tuple[int, ...], dtype: str = "float16") -> NDArray[Any]:
    """The array of a pickle.

    Args:
        path: of the file.
        shape: that it must have.
        dtype: that it must have.

    Raises:
        PickleError: anything else is in it, it is cut off, or its numbers are not finite.
    """
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    size = path.stat().st_size
    if size > 2 * expected + OVERHEAD:  # protocol 2 takes two bytes for many a byte
        raise PickleError(path, f"{size} bytes, where {dtype} {shape} takes {expected}; it is of another kind")
    stream = io.BytesIO(path.read_bytes())
    try:
        array = ArrayUnpickler(stream).load()
    except _BROKEN as error:
        raise PickleError(path, f"not a whole pickle of an array ({error})") from error
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.dtype(dtype):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise PickleError(path, f"holds {found}, not {dtype} {shape}")
    if not np.isfinite(array).all():
        raise PickleError(path, "holds numbers that are not finite")
    return np.ascontiguousarray(array)


def import_features(
    *,
    folder: str,
    cache: str,
    temporal: int,
    spatial: int,
    width: int,
    image_size: int,
    encoder: str,
    layer: int,
    shard_size: int,
    max_failed: float,
) -> dict[str, int]:
    """Fills a cache from a folder of pickles. A killed import goes on where it stood.

    The names in the cache are those of the videos without an ending, so the annotations must name their videos so, or
    as `<name>.pkl`: the published training file does.

    Args:
        folder: of `<video>.pkl`.
        cache: folder to fill.
        temporal: rows of frames T.
        spatial: rows of patches P.
        width: of a row, D.
        image_size: side that the frames had for the encoder.
        encoder: name of the encoder that made the features.
        layer: of the encoder.
        shard_size: videos a shard.
        max_failed: greatest share of files that may be bad.

    Returns:
        Counts of videos, of bad files and of shards made. Each bad file is logged and stands in `failures.json`.

    Raises:
        ValueError: no files, two for one video, or too many bad ones: then there is no cache, and the message names
            the first.
    """
    paths = _by_name(Path(folder))
    settings: Settings = {
        "encoder": encoder,
        "layer": layer,
        "temporal": temporal,
        "image_size": image_size,
        "resize": "nearest",
        "sampling": "midpoint",
        "dtype": "float16",
        "backend": "decord, by the published script",
    }
    items = [Item(name, key_of(path, name=name, settings=settings)) for name, path in paths.items()]
    writer = CacheWriter(Path(cache), items=items, settings=settings, shard_size=shard_size)
    missing = writer.missing()
    make = _reader(paths, shape=(temporal + spatial, width))
    fill(writer, make=make, shards=track(missing, description="shards of features"))
    try:
        failures = writer.finish(max_failed=max_failed)
    except ValueError as error:
        first = "; ".join(_reasons(writer.folder)[:3])
        raise ValueError(
            f"{error}. First: {first}. Fetch good files and remove {cache}, or raise task.max_failed"
        ) from error
    return {"videos": len(Cache(writer.folder)), "failed": len(failures), "shards made": len(missing)}


def _by_name(folder: Path) -> dict[str, Path]:
    files = sorted(folder.glob("*.pkl"))
    if not files:
        raise ValueError(f"{folder}: no .pkl files; set task.folder to the folder of feature files")
    paths: dict[str, Path] = {}
    for path in files:
        name = path.name.partition(".")[0]
        if name in paths:
            raise ValueError(f"{path} and {paths[name].name} are both of video {name}; remove one")
        paths[name] = path
    return paths


def _reader(
    paths: dict[str, Path], *, shape: tuple[int, int]
) -> Callable[[Sequence[Item]], tuple[dict[str, Tensor], list[Failure]]]:
    def make(items: Iterable[Item]) -> tuple[dict[str, Tensor], list[Failure]]:
        tensors, failures = {}, []
        for item in items:
            try:
                tensors[item.key] = torch.from_numpy(read_pickled_array(paths[item.name], shape=shape).copy())
            except PickleError as error:
                log.warning("%s", error)
                failures.append(Failure(item.name, f"{paths[item.name].name}: {error.reason}"))
        return tensors, failures

    return make


def _reasons(folder: Path) -> list[str]:
    return [each["reason"] for each in json.loads((folder / "failures.json").read_text())]
