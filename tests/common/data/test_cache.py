"""Caches: whole shards, the same bytes after a restart, and no reader of a stale one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.data.cache import Cache, CacheWriter, DamagedCacheError, Failure, Item, Part, StaleCacheError, key_of

SETTINGS = {"size": 8, "encoder": "a"}
ITEMS = [Item(f"clip{number}.mp4", f"key{number}") for number in range(7)]


def fill(folder: Path, *, only: int | None = None, failing: tuple[str, ...] = ()) -> CacheWriter:
    writer = CacheWriter(folder, items=ITEMS, settings=SETTINGS, shard_size=3)
    for number in writer.missing()[:only]:
        shard = writer.shards[number]
        made = {item.key: torch.full((2,), float(item.name[4])) for item in shard if item.name not in failing}
        writer.write(number, made, [Failure(item.name, "broken") for item in shard if item.name in failing])
    return writer


def test_restarted_cache_has_the_same_bytes_and_repeats_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "whole").finish(max_failed=0)
    fill(tmp_path / "killed", only=1)
    (tmp_path / "killed" / "shard_00001.safetensors").write_bytes(b"half a sh")  # killed before its record
    (tmp_path / "killed" / ".shard_00002.safetensors.0a1b2c3d.part").write_bytes(b"hal")  # and within a file
    writer = CacheWriter(tmp_path / "killed", items=ITEMS, settings=SETTINGS, shard_size=3)
    assert writer.missing() == [1, 2]
    fill(tmp_path / "killed").finish(max_failed=0)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "killed").iterdir())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_reads_by_name(tmp_path: Path) -> None:
    fill(tmp_path).finish(max_failed=0)
    cache = Cache(tmp_path, settings={"size": 8})
    assert len(cache) == 7
    assert cache["clip5.mp4"].tolist() == [5.0, 5.0]


def test_failures_are_listed_and_bounded(tmp_path: Path) -> None:
    writer = fill(tmp_path, failing=("clip2.mp4", "clip4.mp4"))
    with pytest.raises(ValueError, match="2 of 7 entries failed"):
        writer.finish(max_failed=0.1)
    assert [failure.name for failure in writer.finish(max_failed=0.5)] == ["clip2.mp4", "clip4.mp4"]
    assert "clip2.mp4" not in Cache(tmp_path)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    fill(tmp_path).finish(max_failed=0)
    with pytest.raises(StaleCacheError, match="size"):
        Cache(tmp_path, settings={"size": 16})
    with pytest.raises(StaleCacheError):
        CacheWriter(tmp_path, items=ITEMS, settings={"size": 16}, shard_size=3)


def test_unfinished_cache_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, only=1)
    with pytest.raises(FileNotFoundError, match="preparation task"):
        Cache(tmp_path)


def test_key_changes_with_content_name_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x" * 300_000)
    key = key_of(path, name="a.mp4", settings=SETTINGS)
    assert key == key_of(path, name="a.mp4", settings=dict(SETTINGS))
    assert key != key_of(path, name="b.mp4", settings=SETTINGS)
    assert key != key_of(path, name="a.mp4", settings=SETTINGS | {"size": 9})
    path.write_bytes(b"x" * 299_999 + b"y")
    assert key != key_of(path, name="a.mp4", settings=SETTINGS)


def test_a_folder_of_images_has_a_key(tmp_path: Path) -> None:
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes(name.encode())
    key = key_of(tmp_path, name="clip", settings=SETTINGS)
    (tmp_path / "1.png").write_bytes(b"other")
    other = key_of(tmp_path, name="clip", settings=SETTINGS)
    (tmp_path / "2.png").write_bytes(b"more")
    assert len({key, other, key_of(tmp_path, name="clip", settings=SETTINGS)}) == 3


def test_parts_share_out_the_shards(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path, items=ITEMS, settings=SETTINGS, shard_size=1)
    assert [writer.missing(Part.parse(f"{index}/3")) for index in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    writer.write(3, {}, [Failure(writer.shards[3][0].name, "broken")])
    assert writer.missing(Part.parse("0/3")) == [0, 6]
    assert writer.failures() == [Failure("clip3.mp4", "broken")]


@pytest.mark.parametrize("text", ["3/3", "1", "1/", "/2", "-1/2", "a/b", "0/0", "1/2/3"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 0/4"):
        Part.parse(text)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 4]) + content[-2:]


@pytest.mark.parametrize("harm", [truncated, flipped, lambda content: b""], ids=["truncated", "bit flipped", "empty"])
def test_a_damaged_shard_is_named_and_made_anew(harm: Callable[[bytes], bytes], tmp_path: Path) -> None:
    fill(tmp_path).finish(max_failed=0)
    shard = tmp_path / "shard_00001.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(harm(good))
    cache = Cache(tmp_path)
    assert cache["clip0.mp4"].tolist() == [0.0, 0.0]
    with pytest.raises(DamagedCacheError, match=r"shard_00001\.safetensors is damaged .* shard_00001\.json") as named:
        [cache[f"clip{number}.mp4"] for number in (3, 4, 5)]
    assert "run the preparation task again" in str(named.value)
    for name in ("shard_00001.safetensors", "shard_00001.json", "index.json"):
        (tmp_path / name).unlink()
    fill(tmp_path).finish(max_failed=0)
    assert shard.read_bytes() == good
    assert Cache(tmp_path)["clip5.mp4"].tolist() == [5.0, 5.0]


def test_a_cache_without_checksums_of_entries_is_read(tmp_path: Path) -> None:
    fill(tmp_path).finish(max_failed=0)
    for record in tmp_path.glob("shard_*.json"):
        content = json.loads(record.read_text())
        del content["entries"]
        record.write_text(json.dumps(content))
    assert Cache(tmp_path)["clip5.mp4"].tolist() == [5.0, 5.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.int64])
def test_entries_of_any_dtype_and_shape_have_checksums(dtype: torch.dtype, tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path, items=ITEMS[:2], settings=SETTINGS, shard_size=2)
    writer.write(0, {"key0": torch.ones((), dtype=dtype), "key1": torch.ones((2, 3), dtype=dtype).T.contiguous()}, [])
    writer.finish(max_failed=0)
    assert Cache(tmp_path)["clip1.mp4"].shape == (3, 2)
