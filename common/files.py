"""Files that are either whole or absent: written under a temporary name, flushed, then renamed."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

END_BYTES = 1 << 16  # of each end of a file that goes into its identity


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears at `path` only when the block ends without an error, for content that comes in pieces.

    Yields:
        An open temporary sibling of `path`. It is removed on an error; one of a killed process stays as `.*.part`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path`; a reader sees the old content or the new, never a part of it."""
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write_bytes` for UTF-8 text."""
    atomic_write_bytes(path, text.encode())


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` only when the block ends without an error.

    Yields:
        A temporary sibling of `path` to write into. It is removed on an error.

    Raises:
        FileExistsError: `path` is there already.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; remove it or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def digest(path: Path) -> str:
    """Identity of a file's content without reading all of it: size and both 64 KiB ends, 32 hex digits."""
    size = path.stat().st_size
    state = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as file:
        state.update(file.read(END_BYTES))
        if size > END_BYTES:
            file.seek(max(size - END_BYTES, END_BYTES))
            state.update(file.read())
    return state.hexdigest()


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, atomically."""
    atomic_write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Reads one JSON object a line.

    Raises:
        ValueError: a line is not JSON; names the file and the line.
    """
    rows = []
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                rows.append(json.loads(text))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} line {number}: not a JSON object ({error})") from error
    return rows


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
