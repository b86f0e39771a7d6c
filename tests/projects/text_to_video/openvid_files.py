"""Made-up files in the layout of OpenVid-1M: CSVs, zips, zips in parts."""

import csv
import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from projects.text_to_video.limits import Limits
from projects.text_to_video.openvid import prepare_openvid
from projects.text_to_video.openvid_csv import HEADER

Row = dict[str, Any]


def row(video: str, **changes: Any) -> Row:
    """A row of a CSV, with the published column names."""
    values = {"caption": f'A man, who says "hello", walks.\nSeen in {video}.', "aesthetic score": 5.25}
    values |= {"motion score": 3.5, "temporal consistency score": 0.99, "camera motion": "pan_left"}
    return {"video": video, **values, "frame": 150, "fps": 30.0, "seconds": 5.0} | changes


def csv_text(rows: Sequence[Row], header: Sequence[str] = HEADER) -> str:
    stream = io.StringIO()
    table = csv.DictWriter(stream, header, lineterminator="\n", extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    return stream.getvalue()


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(csv_text(rows))
    return path


def content_of(name: str, size: int = 400) -> bytes:
    """Bytes that stand for a video: extraction looks at none."""
    name = Path(name).name
    return (b"ftyp" + name.encode() * (size // len(name) + 1))[:size]


def write_zip(path: Path, names: Sequence[str], *, folder: str = "videos", size: int = 400) -> Path:
    """A zip whose members lie in a folder, as the published ones do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        contents = {f"{folder}/": b"", "__MACOSX/._a.mp4": b"x"}
        contents |= {f"{folder}/{name}": content_of(name, size) for name in names}
        for member, data in contents.items():
            file.writestr(zipfile.ZipInfo(member), data)  # of 1980, so that equal content is an equal file
    return path


def split(path: Path, size: int, form: str = "{stem}_part{letters}") -> list[Path]:
    """Cuts a file into parts of `size` bytes, as `split -b` does, and removes it."""
    data, parts = path.read_bytes(), []
    for number, start in enumerate(range(0, len(data), size)):
        letters = chr(ord("a") + number // 26) + chr(ord("a") + number % 26)
        part = path.with_name(form.format(stem=path.stem, letters=letters))
        part.write_bytes(data[start : start + size])
        parts.append(part)
    os.remove(path)
    return parts


def prepare(root: Path, **changes: Any) -> dict[str, Any]:
    """The task on what is below `root`."""
    settings: dict[str, Any] = {
        "table": str(root / "OpenVid-1M.csv"),
        "hd_table": None,
        "zips": [str(root)],
        "videos": str(root / "video"),
        "folder": str(root / "clips"),
        "mapping": None,
        "limits": Limits(seconds=[4, None]),
        "holdout": {"val": 0.2, "test": 0.2},
        "seed": 0,
        "extraction": "selected",
        "max_missing": 0.0,
        "workers": 2,
    }
    return prepare_openvid(**settings | changes)


def files_below(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
