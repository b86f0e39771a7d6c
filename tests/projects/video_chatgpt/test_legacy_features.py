"""Published feature pickles into the cache: once, restartable, bad files named and counted."""

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
from projects.video_chatgpt.legacy_features import import_features

SHAPE = (356, 1024)


def features(seed: int = 0) -> NDArray[np.float16]:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float16)


class Runs:
    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, ("ran",)


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
