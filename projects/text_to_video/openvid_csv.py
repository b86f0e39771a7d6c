"""The CSV files of OpenVid-1M, read row by row: 767 MB are never in memory at once."""

import csv
import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from common.progress import track
from projects.text_to_video.clips import Clip

log = logging.getLogger(__name__)
HEADER: Final = (
    "video",
    "caption",
    "aesthetic score",
    "motion score",
    "temporal consistency score",
    "camera motion",
    "frame",
    "fps",
    "seconds",
)
PUBLISHED = {"OpenVid-1M.csv": 767_465_175, "OpenVidHD.csv": 262_603_392}  # bytes
LEAST_SIDE = 512  # all clips have at least 512 x 512 pixels
HD_SIDE = 1080  # those of the second file
# Clips cut from one video share what stands before "_<scene>_<first>to<last>", or before the number of celebv_.
CUT = re.compile(r"(?:_\d+)?_\d+to\d+\Z")
CELEBV = re.compile(r"(celebv_.+)_\d+\Z")


class CsvError(ValueError):
    """A file is not one of OpenVid's, is cut off, or has a bad row; names the file, the line and the remedy."""


class Line(NamedTuple):
    """A row and where it ends."""

    number: int
    cells: list[str]


def read_names(path: Path) -> set[str]:
    """Names of the videos of a file."""
    return {line.cells[0] for line in _lines(path)}


def read_openvid(path: Path, *, hd: frozenset[str] | set[str], hd_only: bool = False) -> Iterator[Clip]:
    """Yields the rows of a file.

    Args:
        path: of the CSV.
        hd: names of videos that are known to have 1080 lines.
        hd_only: whether all rows of this file are such.

    Raises:
        CsvError: other columns, a bad row, or a file that is cut off.
    """
    for line in track(_lines(path), description=f"rows of {path.name}"):
        yield _clip(line, path, HD_SIDE if hd_only or line.cells[0] in hd else LEAST_SIDE)


def group_of(name: str) -> str:
    """The video that a clip was cut from, as far as its name tells; otherwise the clip itself."""
    stem = name.removesuffix(".mp4")
    celebv = CELEBV.match(stem)
    return celebv[1] if celebv else CUT.sub("", stem) or stem


def _lines(path: Path) -> Iterator[Line]:
    _check_end(path)
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            _check_header(path, next(rows, []))
            for cells in rows:
                if len(cells) != len(HEADER):
                    found = f"{len(cells)} cells where the header has {len(HEADER)}"
                    raise CsvError(f"{path} line {rows.line_num}: {found}; the file is damaged, download it again")
                yield Line(rows.line_num, cells)
        except (csv.Error, UnicodeDecodeError) as error:
            raise CsvError(
                f"{path} after line {rows.line_num}: {error}; the file is cut off or damaged, download it again"
            ) from error


def _check_end(path: Path) -> None:
    """Refuses a file whose last line is not closed: a number that lost its last digits would look like a number."""
    if not path.is_file():
        raise CsvError(f"{path} is not there; it is data/train/{path.name} of the data set nkp37/OpenVid-1M")
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(size - 1, 0), os.SEEK_SET)
        if file.read() != b"\n":
            raise CsvError(f"{path} does not end in a line break: it is cut off; download it again")
    published = PUBLISHED.get(path.name)
    if published is not None and size < published:
        log.warning("%s has %d bytes, the published file has %d: a part of it, or cut off", path, size, published)


def _check_header(path: Path, found: list[str]) -> None:
    names = [name.removeprefix("\ufeff").strip() for name in found]
    if names != [*HEADER]:
        raise CsvError(
            f"{path} has the columns {', '.join(names) or 'of no row'}; those of OpenVid-1M are {', '.join(HEADER)}. "
            "For other tables there is task=video_table"
        )


def _clip(line: Line, path: Path, side: int) -> Clip:
    video, caption, aesthetic, motion, consistency, camera, frames, fps, seconds = line.cells
    where = f"{path} line {line.number}"
    if not video.strip() or "/" in video or "\\" in video:
        raise CsvError(f"{where}: {video!r} is not the name of a file; mend the row or take it out")
    if not caption.strip():
        raise CsvError(f"{where}: the caption of {video} is empty; mend the row or take it out")
    numbers: dict[str, Any] = {
        "aesthetic": _number(aesthetic, "aesthetic score", where),
        "motion": _number(motion, "motion score", where),
        "consistency": _number(consistency, "temporal consistency score", where),
        "fps": _number(fps, "fps", where, above=0.0),
        "seconds": _number(seconds, "seconds", where, above=0.0),
        "frames": round(_number(frames, "frame", where, above=0.0)),
    }
    stem = Path(video).stem
    return Clip(id=stem, video=video, caption=caption, group=group_of(video), side=side, camera=camera, **numbers)


def _number(text: str, column: str, where: str, *, above: float = -math.inf) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= above:
        expected = "a number" if above < 0 else f"a number above {above:g}"
        raise CsvError(f"{where}: {column} is {text!r}, which is not {expected}; mend the row or take it out")
    return value
