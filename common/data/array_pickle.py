"""Pickles of one numpy array, read without running what a pickle could run."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
