"""Caches of frozen work: tensors in safetensors shards, keyed by content, written atomically, restartable.

A cache folder holds `plan.json` (settings, keys and their division into shards), `shard_00000.safetensors` with
`shard_00000.json` (checksum, failures) beside each, and `index.json` once all shards are there. A shard is made whole
or not at all and depends on the plan alone, so a killed and restarted task ends with the same bytes, and several
machines may each make a part of the shards in one folder.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from common.checkpoint import checksum
from common.files import atomic_write_bytes, atomic_write_text, digest

Settings = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Item:
    """One entry: its name (a relative path) and the key of its content under the cache's settings."""

    name: str
    key: str


@dataclass(frozen=True)
class Failure:
    """An entry that could not be made, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Part:
    """The shards that one of several machines makes: those whose number modulo `count` is `index`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Reads "i/n", machines counted from 0.

        Raises:
            ValueError: it is not of that form, or i is not one of 0 .. n - 1.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError(f"shard={text}: of n machines it is one of 0/n ... (n-1)/n, such as 0/4")
        return cls(int(index), int(count))


WHOLE = Part(0, 1)


class StaleCacheError(ValueError):
    """A cache was made from other files or with other settings than are asked for."""


def key_of(path: Path, *, name: str, settings: Settings) -> str:
    """Identity of one entry: relative path, size, both ends of the file, and every setting of the transform.

    Of a folder of images: the names, sizes and ends of all its files.
    """
    content = digest(path) if path.is_file() else [[each.name, digest(each)] for each in sorted(path.iterdir())]
    parts = json.dumps([name, content, dict(settings)], sort_keys=True)
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


class DamagedCacheError(ValueError):
    """A file of a cache is not what was written."""


class CacheWriter:
    """Fills a cache shard by shard; shards that are there are kept."""

    def __init__(self, folder: Path, *, items: Sequence[Item], settings: Settings, shard_size: int) -> None:
        """
        Raises:
            StaleCacheError: the folder holds a cache with another plan.
        """
        self.folder = folder
        self.shards = [list(items[start : start + shard_size]) for start in range(0, len(items), shard_size)]
        plan = {"settings": dict(settings), "shards": [[asdict(item) for item in shard] for shard in self.shards]}
        path = folder / "plan.json"
        if path.exists() and json.loads(path.read_text()) != plan:
            raise StaleCacheError(
                f"{folder} holds a cache of other files or settings; remove it or choose another folder"
            )
        if not path.exists():
            atomic_write_text(path, json.dumps(plan))

    def missing(self, part: Part = WHOLE) -> list[int]:
        """Numbers of the shards of a part that are still to be made."""
        numbers = range(part.index, len(self.shards), part.count)
        return [number for number in numbers if not self._record(number).exists()]

    def write(self, number: int, tensors: Mapping[str, Tensor], failures: Sequence[Failure]) -> None:
        """Commits one shard: {key: tensor} and what failed."""
        path = self.folder / f"shard_{number:05d}.safetensors"
        ordered = {item.key: tensors[item.key] for item in self.shards[number] if item.key in tensors}
        assert len(ordered) + len(failures) == len(self.shards[number]), "an entry neither made nor reported"
        atomic_write_bytes(path, save(ordered))
        sums = {key: _checksum(tensor) for key, tensor in ordered.items()}
        record = {"crc32": checksum(path), "entries": sums, "failures": [asdict(failure) for failure in failures]}
        atomic_write_text(self._record(number), json.dumps(record))

    def failures(self) -> list[Failure]:
        """What failed in the shards that are there."""
        records = [self._record(number) for number in range(len(self.shards))]
        found = [json.loads(record.read_text())["failures"] for record in records if record.exists()]
        return [Failure(**failure) for failures in found for failure in failures]

    def finish(self, *, max_failed: float) -> list[Failure]:
        """Writes the index and the list of failures; with several machines, by whichever finds all shards there.

        What killed writers have left half-written is removed: nobody writes a shard any more.

        Args:
            max_failed: greatest share of entries that may have failed.

        Raises:
            ValueError: more failed; the shards stay, so that another try repeats nothing.
        """
        assert not self.missing()
        for leftover in self.folder.glob(".shard_*.part"):
            leftover.unlink(missing_ok=True)
        failures = self.failures()
        failed = {failure.name for failure in failures}
        index = {
            item.name: [item.key, f"shard_{number:05d}.safetensors"]
            for number, shard in enumerate(self.shards)
            for item in shard
            if item.name not in failed
        }
        atomic_write_text(self.folder / "failures.json", json.dumps([asdict(each) for each in failures], indent=2))
        entries = len(index) + len(failures)
        if len(failures) > max_failed * entries:
            raise ValueError(
                f"{len(failures)} of {entries} entries failed, more than the allowed share {max_failed}; "
                f"see {self.folder / 'failures.json'}"
            )
        atomic_write_text(self.folder / "index.json", json.dumps(index))
        return failures

    def _record(self, number: int) -> Path:
        return self.folder / f"shard_{number:05d}.json"


class Cache(Mapping[str, Tensor]):
    """A finished cache, read by name; tensors come from memory-mapped shards."""

    def __init__(self, folder: Path, *, settings: Settings | None = None) -> None:
        """
        Args:
            folder: of the cache.
            settings: those that the reader relies on; each must be what the cache was made with.

        Raises:
            FileNotFoundError: there is no finished cache.
            StaleCacheError: it was made with other settings.
        """
        if not (folder / "index.json").exists():
            raise FileNotFoundError(f"no finished cache in {folder}; make it with its preparation task")
        self.folder = folder
        self._index: dict[str, list[str]] = json.loads((folder / "index.json").read_text())
        self.settings: dict[str, Any] = json.loads((folder / "plan.json").read_text())["settings"]
        self.refuse_other(settings or {})
        self._shards: dict[str, tuple[Any, Mapping[str, int]]] = {}

    def refuse_other(self, settings: Settings) -> None:
        """Raises StaleCacheError unless the cache was made with these settings."""
        differing = {
            key: (self.settings.get(key), value) for key, value in settings.items() if self.settings.get(key) != value
        }
        if differing:
            raise StaleCacheError(f"{self.folder} was made with other settings (made with, wanted): {differing}")

    def __getitem__(self, name: str) -> Tensor:
        """
        Raises:
            DamagedCacheError: the entry is not what was written.
        """
        key, file = self._index[name]
        if file not in self._shards:
            self._shards[file] = self._open(self.folder / file)
        shard, sums = self._shards[file]
        tensor: Tensor = shard.get_tensor(key)
        if key in sums and _checksum(tensor) != sums[key]:
            raise DamagedCacheError(self._damaged(file, f"the entry of {name} is not what was written"))
        return tensor

    def _open(self, path: Path) -> tuple[Any, Mapping[str, int]]:
        """A shard, and the checksums of its entries; caches of before these were kept have none."""
        try:
            return safe_open(path, framework="pt"), json.loads(path.with_suffix(".json").read_text()).get("entries", {})
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise DamagedCacheError(self._damaged(path.name, str(error))) from error

    def _damaged(self, file: str, reason: str) -> str:
        record = Path(file).with_suffix(".json")
        return (
            f"{self.folder / file} is damaged ({reason}); remove it with {record} and index.json beside it, and run "
            "the preparation task again: it makes that shard anew"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}}  # open maps do not travel to loader processes


def _checksum(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    return zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


def fill(
    writer: CacheWriter,
    *,
    make: Callable[[Sequence[Item]], tuple[dict[str, Tensor], list[Failure]]],
    shards: Iterable[int],
) -> None:
    """Makes the given shards one after the other."""
    for number in shards:
        tensors, failures = make(writer.shards[number])
        writer.write(number, tensors, failures)
