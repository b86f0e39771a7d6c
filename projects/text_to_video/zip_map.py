"""Which zip a video is in, from lists that others have made: for videos whose zip is not here yet.

Three forms are read: a folder of CSV files, one a zip and named after it, with a column `video` (OpenVid-1M-mapping,
its folder `video_mappings`); one CSV with the columns `video` and `zip` (or `zip_file`, or a number in `part_id`); and
`OpenVidHD.json`, a list of {"part1": [names], ...}.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

ZIP_COLUMNS = ("zip", "zip_file", "part_id")


class MappingError(ValueError):
    """A list of videos by zip has another form; names the file and the forms."""


def zips_of(path: Path, videos: set[str]) -> dict[str, str]:
    """Names of the zips of videos; those that the list does not know are left out.

    Args:
        path: of the list.
        videos: names.

    Raises:
        MappingError: the list is of no known form.
    """
    return {video: zip_name for video, zip_name in _pairs(path) if video in videos}


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_dir():
        files = sorted(path.glob("*.csv"))
        if not files:
            raise MappingError(f"{path}: no CSV files; give the folder video_mappings of OpenVid-1M-mapping")
        for file in files:
            yield from ((row["video"], f"{file.stem}.zip") for row in _rows(file, ()))
    elif path.suffix == ".json":
        yield from _hd(path)
    elif path.is_file():
        for row in _rows(path, ZIP_COLUMNS):
            column = next(name for name in ZIP_COLUMNS if name in row)
            yield row["video"], f"OpenVid_part{int(row[column])}.zip" if column == "part_id" else row[column]
    else:
        raise MappingError(f"{path} is not there; leave task.mapping=null, or fetch a list")


def _rows(path: Path, zip_columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        names = rows.fieldnames or ()
        if "video" not in names or (zip_columns and not {*names} & {*zip_columns}):
            asked = "video" + (f" and one of {', '.join(zip_columns)}" if zip_columns else "")
            raise MappingError(f"{path} has the columns {', '.join(names)}; it needs {asked}")
        for row in rows:
            yield {**row, "video": Path(row["video"]).name}


def _hd(path: Path) -> Iterator[tuple[str, str]]:
    listed = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise MappingError(f"{path}: not a list of objects with names by part, as OpenVidHD.json is")
    for each in listed:
        for part, names in each.items():
            number = re.fullmatch(r"part_?(\d+)", part)
            if number is None:
                raise MappingError(f'{path}: {part!r} is no part; they are called "part1", "part2", ...')
            yield from ((str(name), f"OpenVidHD_part_{number[1]}.zip") for name in names)
