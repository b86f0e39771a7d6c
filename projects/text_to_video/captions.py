"""Rewritten captions on disk: appended as they come, known by the caption that they stand for.

A folder holds `settings.json` (what wrote them) and `captions_<shard>.jsonl`, one file for each machine. A line is
{"key", "caption", "cut"}: the key of the original caption, the new text (empty where the model said nothing), and
whether the reply ran into its limit. The last line of a batch also has "end": true. What follows the last such line was
begun by a process that was killed, and is cut off: a batch is there whole or not at all.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from common.data.cache import Part
from common.files import atomic_write_text

SETTINGS = "settings.json"
REMEDY = "make them with `python -m launchers.prepare task=recaption`"


class CaptionError(ValueError):
    """Rewritten captions are missing, damaged or of other settings; names the file and the remedy."""


class Written(NamedTuple):
    """A rewritten caption.

    Attributes:
        key: of the original.
        caption: the new text; empty where the model said nothing.
        cut: whether the reply ran into its limit.
    """

    key: str
    caption: str
    cut: bool = False


def key_of(caption: str) -> str:
    """Name of a caption: 32 hex digits of its text."""
    return hashlib.blake2b(caption.encode(), digest_size=16).hexdigest()


class CaptionFile:
    """The captions of one machine, open for appending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _drop_open_batch(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)

    def append(self, batch: Sequence[Written]) -> None:
        """Adds a batch; it is on the disk when this returns."""
        lines = [{"key": each.key, "caption": each.caption, "cut": each.cut} for each in batch]
        lines[-1]["end"] = True
        self._file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


@contextmanager
def open_captions(folder: Path, *, settings: Mapping[str, Any], part: Part) -> Iterator[CaptionFile]:
    """The file of a part, for this process alone.

    Raises:
        CaptionError: the folder holds captions of other settings, or another process is at work on the same part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"captions_{part.index:03d}_of_{part.count:03d}.jsonl"
    lock = FileLock(folder / f".{path.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CaptionError(f"{path}: another process writes here; wait for it, or choose another task.shard") from error
    try:
        _settle(folder / SETTINGS, settings)
        file = CaptionFile(path)
        try:
            yield file
        finally:
            file.close()
    finally:
        lock.release()


def read_captions(folder: str | Path) -> dict[str, str]:
    """New captions by the key of the original; those that are empty are left out.

    Raises:
        CaptionError: there are none, a line is damaged, or two files differ in a caption.
    """
    return {key: written.caption for key, written in read_written(Path(folder)).items() if written.caption}


def read_written(folder: Path) -> dict[str, Written]:
    """All that the files of a folder hold, by key; batches that are not whole are left out.

    Raises:
        CaptionError: as `read_captions`.
    """
    if not (folder / SETTINGS).is_file():
        raise CaptionError(f"no rewritten captions in {folder}; {REMEDY}")
    found: dict[str, Written] = {}
    for path in sorted(folder.glob("captions_*.jsonl")):
        for written in _read(path):
            if found.setdefault(written.key, written) != written:
                raise CaptionError(f"{path}: the caption {written.key} has another text in another file; remove one")
    return found


def _read(path: Path) -> Iterator[Written]:
    batch: list[Written] = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                batch.append(Written(str(row["key"]), str(row["caption"]), bool(row["cut"])))
            except (ValueError, TypeError, KeyError) as error:
                if not line.endswith("\n"):  # the last one, of a process that was killed or is at work
                    return
                raise CaptionError(f"{path} line {number}: not a rewritten caption ({error}); take it out") from error
            if row.get("end"):
                yield from batch
                batch = []


def _drop_open_batch(path: Path) -> None:
    """Cuts what a killed process left after its last whole batch."""
    if not path.exists():
        return
    good = position = 0
    with open(path, "rb") as file:
        for line in file:
            position += len(line)
            if line.endswith(b'"end": true}\n'):
                good = position
    os.truncate(path, good)


def _settle(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings, or compares them with those that are there."""
    wanted = json.loads(json.dumps(dict(settings)))
    if not path.is_file():
        atomic_write_text(path, json.dumps(wanted, indent=1) + "\n")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    changed = sorted(key for key in {*wanted, *found} if found.get(key) != wanted.get(key))
    if changed:
        told = ", ".join(f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} asked" for key in changed)
        raise CaptionError(f"{path.parent} holds captions of other settings ({told}); choose another task.output")


def distinct(captions: Iterable[str]) -> dict[str, str]:
    """Different captions by key, in the order in which they first appear."""
    return {key_of(caption): caption for caption in captions}


def part_of(keys: Iterable[str], part: Part) -> list[str]:
    """The keys of a part: a caption's part depends on the caption alone, not on others or on their order."""
    return [key for key in keys if int(key[:8], 16) % part.count == part.index]
