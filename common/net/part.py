"""The beginning of a file that is being downloaded, and what it is the beginning of."""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from common.files import atomic_write_text


@dataclass(frozen=True)
class Source:
    """What a file is downloaded from.

    Attributes:
        url: as asked for.
        final_url: after redirects.
        content_type: as the server says.
        suffix: for the file's name.
        size: bytes of the whole; None where the server does not say.
        etag: the server's name for this version of the file.
        modified: when the server's file last changed, as the server writes it.
    """

    url: str
    final_url: str
    content_type: str
    suffix: str
    size: int | None
    etag: str | None
    modified: str | None

    @property
    def validator(self) -> str | None:
        """For If-Range, which takes no weak tags."""
        strong = self.etag is not None and not self.etag.startswith("W/")
        return self.etag if strong else self.modified


def begin(part: Path, source: Source) -> None:
    """Empties a part and records its source beside it, in this order: no bytes stand under a wrong record."""
    part.write_bytes(b"")
    atomic_write_text(_record(part), json.dumps(asdict(source)))


def source_of(part: Path, url: str) -> Source | None:
    """Source of the part that is there; None where there is none to go on with."""
    if not part.is_file() or not _record(part).is_file():
        return None
    with contextlib.suppress(ValueError, TypeError):  # a record of another version: the file is got anew
        source = Source(**json.loads(_record(part).read_text(encoding="utf-8")))
        if source.url == url and 0 < part.stat().st_size <= (source.size or float("inf")):
            return source
    return None


def discard(part: Path) -> None:
    """Removes a part and its record."""
    part.unlink(missing_ok=True)
    _record(part).unlink(missing_ok=True)


def _record(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
