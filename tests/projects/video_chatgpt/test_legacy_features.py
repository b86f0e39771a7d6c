"""Published feature pickles: read as arrays whatever wrote them, never run, bad ones named and counted."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from common.config import build
from common.data.cache import Cache, StaleCacheError
from common.types import Pick
from launchers.command import compose, run_task
from projects.video_chatgpt.legacy_features import PickleError, import_features, read_pickled_array

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


def run(folder: Path, cache: Path, **changes: Any) -> dict[str, int]:
    sizes = {"temporal": 4, "spatial": 2, "width": 8, "image_size": 224, "layer": -2, "shard_size": 2}
    return import_features(
        folder=str(folder), cache=str(cache), **({"encoder": "clip", "max_failed": 0.0, **sizes} | changes)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pickles"
    made.mkdir()
    for number in range(5):
        array = np.full((6, 8), number, dtype=np.float16)
        (made / f"v_{number}.pkl").write_bytes(pickle.dumps(array))
    return made


def test_a_folder_becomes_a_cache_once(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path / "cache") == {"videos": 5, "failed": 0, "shards made": 3}
    assert run(folder, tmp_path / "cache") == {"videos": 5, "failed": 0, "shards made": 0}
    cache = Cache(tmp_path / "cache", settings={"temporal": 4, "image_size": 224})
    assert torch.equal(cache["v_3"], torch.full((6, 8), 3.0).half())
    with pytest.raises(StaleCacheError):
        Cache(tmp_path / "cache", settings={"temporal": 16})


def test_an_import_that_was_killed_ends_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "whole")
    run(folder, tmp_path / "killed")
    for file in ("index.json", "shard_00001.json", "shard_00001.safetensors"):
        (tmp_path / "killed" / file).unlink()
    assert run(folder, tmp_path / "killed")["shards made"] == 1
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes()


def test_bad_files_are_counted_named_and_make_no_cache(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "v_1.pkl").write_bytes(pickle.dumps(Runs()))
    (folder / "v_4.pkl").write_bytes((folder / "v_4.pkl").read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"2 of 5 entries.*First: v_1\.pkl: .*it calls \w+\.mkdir.*v_4\.pkl"):
        run(folder, tmp_path / "cache")
    assert "v_4.pkl" in caplog.text
    with pytest.raises(FileNotFoundError):
        Cache(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.part"))
    figures = run(folder, tmp_path / "cache", max_failed=0.5)
    assert figures == {"videos": 3, "failed": 2, "shards made": 0}
    assert {each["name"] for each in json.loads((tmp_path / "cache" / "failures.json").read_text())} == {"v_1", "v_4"}


def test_two_files_of_one_video_and_none_at_all(folder: Path, tmp_path: Path) -> None:
    (folder / "v_1.again.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match="both of video v_1"):
        run(folder, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"no \.pkl files"):
        run(tmp_path, tmp_path / "cache")


def test_training_reads_the_imported_cache(tmp_path: Path) -> None:
    """Published shape and settings, through the task, into the published data configuration."""
    data = tmp_path / "video_instruct"
    (data / "pickles").mkdir(parents=True)
    (data / "pickles" / "v_a.pkl").write_bytes(pickle.dumps(features()))
    row = {"id": "v_a", "video": "v_a.pkl"}
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "red"}]
    (data / "train.json").write_text(json.dumps([row | {"conversations": turns}]))
    where = [f"paths.data='{tmp_path}'", "paths.run=."]
    run_task(compose("task=import_features", *where, config_name="prepare"))
    node = compose("experiment=video_chatgpt", *where).data.train
    tiny = compose("experiment=video_chatgpt_tiny", *where)
    rows = build(node, tokenizer=build(tiny.model.tokenizer), template=build(tiny.data.train.template))()
    (sample,) = [rows[Pick(0, 0, 1.0)]]
    assert sample.features is not None
    assert np.array_equal(sample.features.numpy(), features())
