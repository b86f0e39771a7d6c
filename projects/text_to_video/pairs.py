"""Pairs of video and caption from anywhere: a CSV or JSON lines, or text files that lie beside the videos."""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol

from common.files import read_jsonl
from projects.text_to_video.clips import COLUMNS, NUMBERS, SPLITS, WHOLE, Clip
from projects.text_to_video.zip_members import SUFFIXES

ALL = "all"  # in place of a split: the hold-out decides


class PairError(ValueError):
    """A list of videos and captions cannot be read; names the file, the row and the remedy."""


class Pairs(Protocol):
    """A place that clips with captions come from."""

    @property
    def media(self) -> Path:
        """Folder that the videos' paths are relative to."""

    def settings(self) -> Mapping[str, Any]:
        """What the rows depend on besides the content of files, as JSON."""

    def clips(self) -> Iterator[Clip]:
        """Yields what is listed."""


class Tables:
    """Tables with a row for each clip."""

    def __init__(self, *, media: str, files: Mapping[str, str], columns: Mapping[str, str]) -> None:
        """
        Args:
            media: folder that the paths in the tables are relative to.
            files: path of a .csv or .jsonl by split; "all" in place of a split leaves it to the hold-out.
            columns: names in the files, where they differ: {video: path, caption: text}. What we call a column: see
                `Clip`. Only video and caption must be there; other columns of the files are not read.

        Raises:
            ValueError: no such split, column or kind of file.
        """
        unknown = sorted(set(files) - {*SPLITS, ALL}) + sorted(set(columns) - {*COLUMNS})
        if unknown or not files:
            raise ValueError(f"task.source: files by {', '.join((*SPLITS, ALL))}, columns of {', '.join(COLUMNS)}")
        for path in files.values():
            if Path(path).suffix not in (".csv", ".jsonl"):
                raise ValueError(f"{path}: tables are .csv or .jsonl; for an OpenVid CSV there is task=openvid")
        self.media, self.files, self.columns = Path(media), dict(files), dict(columns)

    def settings(self) -> dict[str, Any]:
        return {"kind": "tables", "splits": sorted(self.files), "columns": self.columns}

    def clips(self) -> Iterator[Clip]:
        for split, file in self.files.items():
            path = Path(file)
            if not path.is_file():
                raise PairError(f"{path} is not there; task.source.files names it")
            count = 0
            for where, row in self._rows(path):
                count += 1
                yield self._clip(row, "" if split == ALL else split, where)
            if not count:
                raise PairError(f"{path} has no rows")

    def _rows(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        if path.suffix == ".jsonl":
            rows = read_jsonl(path)
            yield from ((f"{path} line {number}", row) for number, row in enumerate(rows, start=1))
            return
        with open(path, encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, strict=True)
            try:
                for row in table:
                    where = f"{path} line {table.line_num}"
                    if None in row or None in row.values():
                        raise PairError(f"{where}: not as many cells as the header has; mend the row")
                    yield where, row
            except (csv.Error, UnicodeDecodeError) as error:
                raise PairError(f"{path} after line {table.line_num}: {error}; is it cut off?") from error

    def _clip(self, row: Mapping[str, Any], split: str, where: str) -> Clip:
        if not isinstance(row, dict):
            raise PairError(f"{where}: not an object with video and caption; mend it")
        cells = {name: row.get(self.columns.get(name, name)) for name in COLUMNS if name != "split"}
        found = {name: value for name, value in cells.items() if value not in (None, "")}
        video, caption = (self._text(row, name, where) for name in ("video", "caption"))
        if PurePosixPath(video).is_absolute() or PureWindowsPath(video).is_absolute():
            raise PairError(f"{where}: {video} is absolute; write it relative to task.source.media")
        texts: dict[str, Any] = {name: str(found[name]) for name in ("group", "camera") if name in found}
        numbers: dict[str, Any] = {name: _number(found[name], name, where) for name in NUMBERS if name in found}
        name = str(found.get("id", PurePosixPath(video).with_suffix("")))
        novel = found.get("novel") in (True, "true", "True", "1")
        return Clip(id=name, video=video, caption=caption, split=split, novel=novel, **texts, **numbers)

    def _text(self, row: Mapping[str, Any], name: str, where: str) -> str:
        column = self.columns.get(name, name)
        if column not in row:
            raise PairError(
                f"{where}: no column {column}, there are {', '.join(map(str, row))}; say what it is called there: "
                f"task.source.columns={{{name}: <column>}}"
            )
        value = row[column]
        if not isinstance(value, str) or not value.strip():
            raise PairError(f"{where}: {column} is {value!r}, not a text; mend the row or take it out")
        return value


class Sidecars:
    """A folder of videos, each with its caption in a file of the same name that ends in .txt."""

    def __init__(self, *, media: str, suffix: str = ".txt") -> None:
        """
        Args:
            media: the folder; folders below it count too.
            suffix: of the files with captions.
        """
        self.media, self.suffix = Path(media), suffix

    def settings(self) -> dict[str, Any]:
        return {"kind": "sidecars", "suffix": self.suffix}

    def clips(self) -> Iterator[Clip]:
        videos = sorted(path for path in self.media.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not videos:
            raise PairError(
                f"{self.media}: no videos ({', '.join(SUFFIXES)}); task.source.media names a folder of them"
            )
        for path in videos:
            text = path.with_suffix(self.suffix)
            if not text.is_file():
                raise PairError(f"{path} has no caption {text.name} beside it; write one, or move the video away")
            caption = text.read_text(encoding="utf-8").strip()
            if not caption:
                raise PairError(f"{text} is empty; write a caption, or move the video away")
            name = path.relative_to(self.media)
            yield Clip(id=name.with_suffix("").as_posix(), video=name.as_posix(), caption=caption)


def _number(value: object, name: str, where: str) -> float | int:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise PairError(f"{where}: {name} is {value!r}, not a number; mend the row")
    return round(number) if name in WHOLE else number
