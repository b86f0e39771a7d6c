"""Videos inside zip files: listed from the directories of the files, then extracted side by side into one folder."""

import logging
import os
import zipfile
import zlib
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from common.disk import DiskSpaceError, shortage
from common.progress import track
from projects.text_to_video.zip_parts import CHUNK, ZipError

log = logging.getLogger(__name__)
SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi")


class Member(NamedTuple):
    """A video in a zip.

    Attributes:
        path: inside the zip.
        size: bytes, extracted.
        crc: checksum of its bytes.
    """

    path: str
    size: int
    crc: int


@dataclass
class Inside:
    """Videos by the zip that has them.

    Attributes:
        members: of each zip, {name without folders: member}.
    """

    members: dict[Path, dict[str, Member]] = field(default_factory=dict)

    def zip_of(self) -> dict[str, Path]:
        """The zip of each video."""
        return {name: path for path, members in self.members.items() for name in members}


class Extracted(NamedTuple):
    """What extraction did: videos written now, and why others could not be."""

    written: int
    failed: dict[str, str]


def list_members(zips: Sequence[Path], *, wanted: Collection[str] | None) -> Inside:
    """Reads the directories of zip files; no member is read.

    Args:
        zips: the files.
        wanted: names of videos without folders, as a set; None for all.

    Raises:
        ZipError: files are damaged (all are named), or two hold different videos of one name.
    """
    inside, broken, first = Inside(), [], dict[str, tuple[Path, Member]]()
    for path in track(zips, description="directories of zip files"):
        try:
            with zipfile.ZipFile(path) as file:
                members = {name: member for name, member in _videos(file) if wanted is None or name in wanted}
        except (zipfile.BadZipFile, OSError) as error:
            broken.append(f"{path} ({error})")
            continue
        for name, member in list(members.items()):
            other, known = first.setdefault(name, (path, member))
            if (known.size, known.crc) != (member.size, member.crc):
                raise ZipError(
                    f"{other} and {path} hold different videos of the name {name}; remove one of the zip files"
                )
            if other != path:
                del members[name]  # the same again
        inside.members[path] = members
    if broken:
        raise ZipError(f"{len(broken)} zip files are cut off or damaged; download them again: {'; '.join(broken)}")
    return inside


def extract(inside: Inside, folder: Path, *, workers: int) -> Extracted:
    """Extracts what the folder lacks. A video is whole or absent; one of another size is written again.

    Args:
        inside: what there is.
        folder: gets all videos, without folders below it.
        workers: zip files that are read at a time.

    Raises:
        DiskSpaceError: the videos do not fit; nothing was written.
        ValueError: no workers.
    """
    if workers < 1:
        raise ValueError(f"task.workers={workers} must be 1 or more")
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.extracting"):  # of a run that was killed
        leftover.unlink()
    with os.scandir(folder) as entries:
        there = {entry.name: entry for entry in entries}
        jobs = [
            (path, todo)
            for path, members in inside.members.items()
            if (todo := {n: m for n, m in members.items() if n not in there or there[n].stat().st_size != m.size})
        ]
    size = sum(member.size for _, todo in jobs for member in todo.values())
    count = sum(len(todo) for _, todo in jobs)
    if (problem := shortage(f"extracting {count} videos", size, folder)) is not None:
        raise DiskSpaceError(f"{problem}; narrow task.limits, or make room")
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(workers) as pool:  # inflating leaves Python to the others
        done = pool.map(lambda job: _extract(job[0], job[1], folder), jobs)
        for problems in track(done, description="extracting zip files", total=len(jobs)):
            failed |= problems
    return Extracted(count - len(failed), failed)


def _videos(file: zipfile.ZipFile) -> list[tuple[str, Member]]:
    """Names without folders, so that no name leads out of the folder, and members."""
    found = []
    for info in file.infolist():
        path = PurePosixPath(info.filename)
        hidden = path.name.startswith(".") or "__MACOSX" in path.parts
        if not info.is_dir() and not hidden and path.suffix.lower() in SUFFIXES:
            found.append((path.name, Member(info.filename, info.file_size, info.CRC)))
    return found


def _extract(path: Path, members: dict[str, Member], folder: Path) -> dict[str, str]:
    """Writes the members of one zip; returns why some could not be."""
    failed = {}
    with zipfile.ZipFile(path) as file:
        for name, member in members.items():
            temporary = folder / f".{name}.extracting"
            try:
                with file.open(member.path) as source, open(temporary, "wb") as target:
                    while chunk := source.read(CHUNK):
                        target.write(chunk)
                temporary.replace(folder / name)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                failed[name] = f"damaged in {path.name} ({error})"
                log.warning("%s in %s: %s", name, path, error)
            finally:
                temporary.unlink(missing_ok=True)
    return failed
