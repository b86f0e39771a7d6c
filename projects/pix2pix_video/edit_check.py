"""The preparation task that reads a set of edits through: every bad row by split, row and file, then an error."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from common.files import write_jsonl
from common.processes import each
from common.progress import track
from common.video.clip import VideoReadError
from projects.pix2pix_video.arrow import load_splits, parts_of, schema_faults
from projects.pix2pix_video.frames import RECORD, media_of
from projects.pix2pix_video.pictures import read_rgb
from projects.pix2pix_video.rows import EditRow

log = logging.getLogger(__name__)
SHOWN = 100  # rows of the table; the report has all


class Finding(NamedTuple):
    """What is wrong, and where."""

    split: str
    row: str
    file: str
    problem: str


class Picture(NamedTuple):
    """Height and width of an image, or why it cannot be read."""

    size: tuple[int, int] | None
    problem: str


def check_edit_frames(*, folder: str, media: str | None, report: str, workers: int) -> dict[str, int]:
    """Looks at the columns, at every row, and at every image that a row names.

    Args:
        folder: of the set; one that another program wrote is welcome.
        media: folder that its paths are relative to; null for the place where the set says that it lies.
        report: file for the findings, one JSON object a line.
        workers: processes that read images.

    Returns:
        Rows by split, and the number of different image files.

    Raises:
        ValueError: something is wrong; it has been logged in one table and written to the report.
    """
    root, place = Path(folder), media_of(Path(folder), media)
    splits = load_splits(root)
    findings = [Finding(s, "", "", fault) for s, data in splits.items() for fault in schema_faults(data.features)]
    files: set[str] = set()
    if not findings:
        parts = {str(split): parts_of(data, str(split)) for split, data in splits.items()}
        rows = {split: each_split for split, (each_split, _) in parts.items()}
        files = {file for each_split in rows.values() for row in each_split for file in row.history}
        pictures = _look(sorted(files), place, workers)
        findings += _across(rows, root)
        for split, (each_split, images) in parts.items():
            for row, example in zip(track(each_split, description=f"checking {split}"), images, strict=True):
                findings += [
                    Finding(split, row.id, *fault) for fault in _faults(row, example["edited_image"], pictures)
                ]
    write_jsonl(Path(report), [finding._asdict() for finding in findings])
    if findings:
        log.error("%s", _table(findings))
        raise ValueError(f"{len(findings)} findings in {folder}, listed above and in {report}")
    return {**{str(split): len(data) for split, data in splits.items()}, "images": len(files)}


def _look(files: list[str], media: Path, workers: int) -> dict[str, Picture]:
    """Each image once, whatever the number of rows that name it."""
    jobs = [media / file for file in files]
    return dict(zip(files, each(_picture, jobs, workers=workers, description="reading images"), strict=True))


def _picture(path: Path, data: bytes | None = None) -> Picture:
    try:
        height, width, _ = read_rgb(path, data).shape
    except VideoReadError as error:
        return Picture(None, error.reason)
    return Picture((height, width), "")


def _faults(
    row: EditRow, image: Mapping[str, Any] | None, pictures: Mapping[str, Picture]
) -> Iterator[tuple[str, str]]:
    """What is wrong with one row: file or column, and problem."""
    if not row.instruction.strip():
        yield "edit_prompt", "is empty; write an instruction, or take the row out"
    if not row.history:
        yield "input_frames", "is empty; make the set anew"
    if row.target and row.target in row.history:
        yield row.target, "is the frame to predict, and in the history"
    yield from (
        (file, "is absolute; the set cannot be moved") for file in (*row.history, row.target) if _absolute(file)
    )
    for file in dict.fromkeys(row.history):
        if pictures[file].problem:
            yield file, pictures[file].problem
    data = None if image is None else image["bytes"]
    target = Picture(None, "the set does not hold the image itself") if data is None else _picture(Path("x"), data)
    if target.problem:
        yield row.target or "edited_image", target.problem
    sizes = {pictures[file].size for file in row.history} | {target.size}
    if len(sizes - {None}) > 1:
        told = ", ".join(f"{size[1]}x{size[0]}" for size in sorted(filter(None, sizes)))
        yield row.target or "edited_image", f"the frames of the row differ in size: {told}"


def _absolute(file: str) -> bool:
    return PurePosixPath(file).is_absolute() or PureWindowsPath(file).is_absolute()


def _across(rows: Mapping[str, list[EditRow]], folder: Path) -> Iterator[Finding]:
    """What is wrong between rows, and between the set and what it says of itself."""
    names = Counter(row.id for each_split in rows.values() for row in each_split)
    lengths = Counter(len(row.history) for each_split in rows.values() for row in each_split)
    usual = lengths.most_common(1)[0][0] if lengths else 0
    owner: dict[str, str] = {}
    for split, each_split in rows.items():
        if not each_split:
            yield Finding(split, "", "", "has no rows")
        for row in each_split:
            if names[row.id] > 1:
                yield Finding(split, row.id, "id", f"{names[row.id]} rows have it")
            if len(row.history) != usual:
                yield Finding(split, row.id, "input_frames", f"{len(row.history)} frames, others have {usual}")
            yield from _shared(split, row, owner)
    yield from _against_record(rows, folder, usual)


def _shared(split: str, row: EditRow, owner: dict[str, str]) -> Iterator[Finding]:
    """One finding for a row whose frames an earlier split has too: what is measured on it is not held out."""
    for file in filter(None, (*row.history, row.target)):
        if owner.setdefault(file, split) != split:
            yield Finding(split, row.id, file, f"is in split {owner[file]} too; rows of one clip belong to one split")
            return


def _against_record(rows: Mapping[str, list[EditRow]], folder: Path, history: int) -> Iterator[Finding]:
    path = folder / RECORD
    if not path.is_file():
        return
    record = json.loads(path.read_text())
    if record["history"] != history:
        yield Finding("", "", RECORD, f"says {record['history']} frames a history, the rows have {history}")
    counts = {split: len(each_split) for split, each_split in rows.items()}
    if record["counts"] != counts:
        yield Finding("", "", RECORD, f"says {record['counts']} rows, there are {counts}")


def _table(findings: Iterable[Finding]) -> str:
    """Aligned columns, the first `SHOWN` findings."""
    every = list(findings)
    cells = [Finding("split", "row", "file", "problem"), *every[:SHOWN]]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row.problem]) for row in cells]
    rest = len(every) - SHOWN
    return "\n".join([f"{len(every)} findings", *lines, *([f"and {rest} more"] if rest > 0 else [])])
