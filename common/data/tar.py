"""Samples in tars (WebDataset layout), read at random: an index of each tar says where its members lie.

Nothing is extracted and nothing streams: a sample is known by its key, all its members belong to it wherever they lie
in the tar, and any order of samples is as good as another. Members `a/0001.jpg` and `a/0001.json` are the sample
`a/0001` with the parts `jpg` and `json`: the key ends at the first dot of the base name, as in WebDataset.
"""

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.files import atomic_write_text, digest
from common.progress import track

FORMAT = 1
SUFFIX = ".index.json"
BLOCK = 512  # bytes; one of zeros stands where the header of a further member would


class TarError(ValueError):
    """A tar cannot be read as samples; names the file and the remedy."""


class Member(NamedTuple):
    """A file in a tar: its name, and where its content lies."""

    name: str
    offset: int
    size: int


def split_name(name: str) -> tuple[str, str]:
    """Key and part of a member.

    Raises:
        ValueError: no part (WebDataset would drop such a member without a word), no key, or a path that leaves its
            folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError("its path leaves the archive")
    stem, dot, part = path.name.partition(".")
    if not (stem and dot and part):
        raise ValueError("it has no extension, or begins with a dot, so that it belongs to no sample; rename it")
    return str(path.with_name(stem)), part.lower()


def read_index(path: Path) -> list[Member]:
    """The members of a tar, in its order, by its index file (`<tar>.index.json`), which is made if it is not there.

    An index of another content (size or either end of the tar differ) is made anew. Where the folder cannot be
    written, the index is made for this process alone.

    Raises:
        TarError: see `scan`.
    """
    beside = path.with_name(path.name + SUFFIX)
    if not path.is_file():
        raise TarError(f"{path} is not there")
    content = digest(path)
    if beside.is_file():
        found = json.loads(beside.read_text())
        if found.get("format") == FORMAT and found.get("content") == content:
            return [Member(*member) for member in found["members"]]
    members = scan(path)
    if os.access(path.parent, os.W_OK):
        record = {"format": FORMAT, "content": content, "members": members}
        atomic_write_text(beside, json.dumps(record, separators=(",", ":")) + "\n")
    return members


def scan(path: Path) -> list[Member]:
    """The members of a tar, from its headers.

    Raises:
        TarError: it is compressed, cut off, or holds a member that is no plain file of a sample, or one twice.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = [_member(path, each) for each in tar if not each.isdir()]
            end = tar.offset  # of what comes behind the last member
    except tarfile.TarError as error:
        raise TarError(f"{path} is no uncompressed tar ({error}); unpack .gz first, or fetch it again") from error
    with open(path, "rb") as file:
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK):
            raise TarError(f"{path} is cut off: the mark at the end of an archive is missing; fetch it again")
    twice = [name for name, count in Counter(each.name for each in members).items() if count > 1]
    if twice:
        raise TarError(f"{path} holds {twice[0]} twice; make it anew")
    return members


def _member(path: Path, info: tarfile.TarInfo) -> Member:
    if not info.isreg() or info.issparse():
        raise TarError(f"{path}: {info.name} is a link, a device or a sparse file; make the tar of plain files")
    name = info.name.removeprefix("./")
    try:
        split_name(name)
    except ValueError as error:
        raise TarError(f"{path}: member {info.name!r}: {error}") from error
    return Member(name, info.offset_data, info.size)


class TarSamples:
    """Samples of a list of tars, by number; their order is that of the tars and of first appearance in each.

    All columns are arrays: millions of samples are shared with loader processes and cost tens of bytes each.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """
        Raises:
            TarError: a tar cannot be read, there is none, or a sample has one part twice.
        """
        if not paths:
            raise TarError("no tars to read samples from")
        self.paths = [Path(path) for path in paths]
        names: dict[str, int] = {}
        keys: list[bytes] = []
        tables = []
        for tar, path in enumerate(track(self.paths, description="indices of tars")):
            here: dict[str, int] = {}
            rows = []
            for name, offset, size in read_index(path):
                key, part = split_name(name)
                sample = here.setdefault(key, len(keys) + len(here))
                rows.append((sample, tar, offset, size, names.setdefault(part, len(names))))
            keys += [key.encode() for key in here]
            table = np.array(rows, np.int64).reshape(-1, 5)
            _refuse_twice(path, table, list(here), list(names))
            tables.append(table[np.argsort(table[:, 0], kind="stable")])
        self._table = np.concatenate(tables)
        self._starts = np.searchsorted(self._table[:, 0], np.arange(len(keys) + 1))
        self._keys: NDArray[np.bytes_] = np.array(keys, np.bytes_)
        self._parts = list(names)
        self._files: dict[int, int] = {}

    @property
    def fingerprint(self) -> str:
        """Changes when a tar does, or their order."""
        text = json.dumps([[path.name, digest(path)] for path in self.paths])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, number: int) -> str:
        """The key of a sample."""
        return bytes(self._keys[number]).decode()

    def tar(self, number: int) -> Path:
        """The tar that a sample lies in."""
        return self.paths[int(self._table[self._starts[number], 1])]

    def parts(self, number: int) -> list[str]:
        """The parts of a sample, in the order of the tar."""
        rows = self._table[self._starts[number] : self._starts[number + 1]]
        return [self._parts[part] for part in rows[:, 4]]

    def read(self, number: int, part: str) -> bytes:
        """The content of a part.

        Raises:
            TarError: the sample has no such part, or the tar has become shorter.
        """
        rows = self._table[self._starts[number] : self._starts[number + 1]]
        found = rows[rows[:, 4] == self._parts.index(part)] if part in self._parts else rows[:0]
        if not len(found):
            raise TarError(f"{self.tar(number)}: sample {self.key(number)} has no .{part}, only {self.parts(number)}")
        _, tar, offset, size, _ = (int(value) for value in found[0])
        content = os.pread(self._open(tar), size, offset)
        if len(content) < size:
            raise TarError(f"{self.paths[tar]} has become shorter since it was opened; fetch it again")
        return content

    def _open(self, tar: int) -> int:
        if tar not in self._files:
            self._files[tar] = os.open(self.paths[tar], os.O_RDONLY | os.O_CLOEXEC)
        return self._files[tar]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}  # open files do not travel to loader processes

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", {}).values():
            os.close(file)


def _refuse_twice(path: Path, table: NDArray[np.int64], keys: list[str], names: list[str]) -> None:
    """`table`: sample and part in its first and last columns; samples of one tar are numbered in one run."""
    places, counts = np.unique(table[:, [0, 4]], axis=0, return_counts=True)
    if (counts > 1).any():
        sample, part = places[counts > 1][0]
        key = keys[int(sample - table[:, 0].min())]
        raise TarError(f"{path}: sample {key} has .{names[part]} twice; make the tar anew")


def find_tars(folder: Path) -> list[Path]:
    """The tars of a folder, by name.

    Raises:
        TarError: there is none.
    """
    found = sorted(folder.glob("*.tar"))
    if not found:
        raise TarError(f"{folder} holds no .tar" + ("" if folder.is_dir() else "; there is no such folder"))
    return found


def write_members(file: IO[bytes], members: Iterable[tuple[str, bytes]]) -> None:
    """Writes an archive to an open file: without dates, owners and rights, so that the same members are the same bytes.

    Args:
        file: open for binary writing.
        members: names and contents, each written as it comes.
    """
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            split_name(name)
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
