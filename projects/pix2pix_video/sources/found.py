"""What a source gives: rows by split, and what it had to leave out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from projects.pix2pix_video.rows import EditRow
from projects.pix2pix_video.sources.windows import Windows

SPLITS = ("train", "val", "test")


class SourceError(ValueError):
    """A source as a whole cannot be read; the message names the file or the key, and the remedy."""


@dataclass(frozen=True)
class Sample:
    """A row, where it belongs, and the clip that it was cut from: rows of one clip stay on one side of a hold-out."""

    row: EditRow
    split: str
    clip: str


@dataclass(frozen=True)
class Skipped:
    """A clip that gives no rows, or an annotation that belongs to none.

    Attributes:
        id: of the clip or of its row in the annotations.
        split: where it would have belonged.
        file: what is at fault.
        reason: why.
    """

    id: str
    split: str
    file: str
    reason: str


@dataclass
class Found:
    """All that a source holds: `clips` counts them, those left out included."""

    samples: list[Sample] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    clips: int = 0


class Source(Protocol):
    """A place that edits come from."""

    @property
    def media(self) -> Path:
        """Folder that the rows' paths are relative to."""

    def identity(self) -> Mapping[str, Any]:
        """What the rows depend on, as JSON: settings, digests of annotations, and names and sizes of media."""

    def collect(self, windows: Windows, *, workers: int) -> Found:
        """Lists the rows; every file that they name is there and decodes."""
