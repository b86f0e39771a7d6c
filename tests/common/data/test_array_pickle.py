"""Pickled arrays: read the same whatever wrote them, never run, bad ones named."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.data.array_pickle import PickleError, read_pickled_array

SHAPE = (356, 1024)


def features(seed: int = 0) -> NDArray[np.float16]:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float16)


def as_numpy_1(data: bytes) -> bytes:
    """Pickles of 2023 name numpy.core; those of numpy 2 name numpy._core."""
    assert b"numpy._core.multiarray" in data
    return data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray").replace(
        b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_reads_the_same(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "v.pkl"
    array = features()[:8]
    path.write_bytes(pickle.dumps(array, protocol=protocol))
    read = read_pickled_array(path, shape=(8, 1024))
    assert np.array_equal(read, array)
    assert read.dtype == np.float16


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_of_2023_reads(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "v.pkl"
    # A frame's length is in the file, so the shorter name only fits without frames.
    plain = pickle._Pickler  # type: ignore[attr-defined]
    stream = io.BytesIO()
    pickler = plain(stream, protocol)
    pickler.framer.start_framing = lambda: None
    pickler.dump(features())
    data = as_numpy_1(stream.getvalue())
    assert b"numpy._core" not in data
    path.write_bytes(data)
    assert np.array_equal(read_pickled_array(path, shape=SHAPE), features())


class Runs:
    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, ("ran",)


class Opens:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, ("ran", "w")


def attribute_setter() -> bytes:
    """Names a known function and sets an attribute of it."""
    return b"\x80\x04cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb."


def greedy() -> bytes:
    """Asks for an array of a terabyte."""
    return b"cnumpy\nndarray\n(J\x00\x00\x00\x40J\x00\x04\x00\x00\x86X\x01\x00\x00\x00btR."


BAD: dict[str, tuple[bytes, str]] = {
    "function": (pickle.dumps(Runs()), r"it calls \w+\.mkdir"),
    "open": (pickle.dumps(Opens()), r"it calls io\.open|it calls _io\.open"),
    "inside": (pickle.dumps([features()[:1], Runs()]), r"it calls \w+\.mkdir"),
    "attribute": (attribute_setter(), "not a whole pickle of an array"),
    "greedy": (greedy(), "not a whole pickle of an array"),
    "truncated": (pickle.dumps(features())[:-1000], "not a whole pickle of an array"),
    "empty": (b"", "not a whole pickle of an array"),
    "text": (b"<html>not found</html>", "not a whole pickle of an array"),
    "shape": (pickle.dumps(features()[:100]), r"holds float16 \(100, 1024\), not float16 \(356, 1024\)"),
    "dtype": (pickle.dumps(features().astype(np.float32)), r"holds float32 \(356, 1024\)"),
    "objects": (pickle.dumps(np.array([None] * 3, dtype=object)), "it holds object, not numbers"),
    "list": (pickle.dumps([1, 2]), "holds list, not float16"),
    "size": (pickle.dumps(np.zeros((2000, 1024))), "16384.* bytes, where"),
    "infinite": (pickle.dumps(np.full(SHAPE, np.inf, dtype=np.float16)), "not finite"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_pickle_is_named_and_runs_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, message = BAD[kind]
    path = tmp_path / "v_bad.pkl"
    path.write_bytes(data)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PickleError, match=rf"v_bad\.pkl: .*({message})"):
        read_pickled_array(path, shape=SHAPE)
    assert [each.name for each in tmp_path.iterdir()] == ["v_bad.pkl"]
