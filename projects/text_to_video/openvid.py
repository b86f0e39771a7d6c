"""The preparation task for OpenVid-1M: split zips joined, videos extracted, a table of the clips that are wanted."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from projects.text_to_video.clip_table import NOWHERE, Holdout, write_table
from projects.text_to_video.clips import Clip
from projects.text_to_video.limits import Limits
from projects.text_to_video.openvid_csv import read_names, read_openvid
from projects.text_to_video.zip_map import zips_of
from projects.text_to_video.zip_members import Extracted, Inside, extract, list_members
from projects.text_to_video.zip_parts import join_parts

log = logging.getLogger(__name__)
Extraction = Literal["selected", "all", "none"]


def prepare_openvid(
    *,
    table: str | None,
    hd_table: str | None,
    zips: Sequence[str],
    videos: str,
    folder: str,
    mapping: str | None,
    limits: Limits,
    holdout: Mapping[str, float],
    seed: int,
    extraction: Extraction,
    max_missing: float,
    workers: int,
) -> dict[str, Any]:
    """Makes the table of clips that are within the limits and on disk; no video is opened.

    Started again, it goes on where it was: what is joined and extracted stays, and after more zips have been fetched
    the table grows. Clips cut from one video are in one split.

    Args:
        table: OpenVid-1M.csv; None for the HD subset alone.
        hd_table: OpenVidHD.csv, whose clips have 1080 lines; None where it is not wanted: 512 is what is known then.
        zips: folders with zip files and parts of zip files.
        videos: folder that gets the videos, or has them already.
        folder: for `clips.jsonl`, `clips.json` and `missing.jsonl`.
        mapping: list of videos by zip, see `zip_map`; tells which zips to fetch for what is missing.
        limits: which clips are taken.
        holdout: shares of "val" and "test".
        seed: of the hold-out.
        extraction: "selected" extracts videos within the limits, "all" every one, "none" leaves zips alone.
        max_missing: greatest share of the clips within the limits that may be missing.
        workers: zip files that are read at a time.

    Returns:
        Counts; see `write_table`. Also zips joined, and videos extracted.

    Raises:
        CsvError: a CSV has other columns, a bad row, or is cut off.
        ZipError: a zip or a part is missing or damaged.
        DiskSpaceError: what is to be written does not fit.
        ValueError: two rows are about one video, or too much is missing.
    """
    if extraction not in ("selected", "all", "none"):
        raise ValueError(f"task.extraction={extraction}: selected, all or none")
    split = Holdout(holdout, seed=seed)
    with _alone(Path(folder)):
        joined, extracted, inside = 0, Extracted(0, {}), Inside()
        if extraction != "none":
            joined = join_parts([_folder(each) for each in zips])
        files = sorted(path for each in zips for path in _folder(each).glob("*.zip"))
        if files:
            wanted = None if extraction == "all" else _names(table, hd_table, limits)
            inside = list_members(files, wanted=wanted)
        if extraction != "none":
            extracted = extract(inside, Path(videos), workers=workers)
        figures = write_table(
            _rows(table, hd_table),
            folder=Path(folder),
            media=Path(videos),
            limits=limits,
            holdout=split,
            source={"kind": "openvid", "hd_alone": table is None},
            max_missing=max_missing,
            reasons=lambda names: _reasons(names, inside, extracted.failed, mapping),
        )
    return {"joined": joined, "extracted": extracted.written, **figures}


def _folder(path: str) -> Path:
    if not Path(path).is_dir():
        raise ValueError(f"task.zips: {path} is no folder; name those with zip files, or none ([]) if all is extracted")
    return Path(path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{folder}: another task=openvid is at work here; wait for it") from error
    try:
        yield
    finally:
        lock.release()


def _rows(table: str | None, hd_table: str | None) -> Iterator[Clip]:
    """Rows of the first file, then those of the second that the first has not."""
    if table is None and hd_table is None:
        raise ValueError("task.table and task.hd_table are both null; name OpenVid-1M.csv, OpenVidHD.csv or both")
    hd = set() if hd_table is None else read_names(Path(hd_table))
    if table is not None:
        for clip in read_openvid(Path(table), hd=hd):
            hd.discard(clip.video)
            yield clip
    if hd_table is not None and hd:
        rest = read_openvid(Path(hd_table), hd=frozenset(), hd_only=True)
        yield from rest if table is None else (clip for clip in rest if clip.video in hd)


def _names(table: str | None, hd_table: str | None, limits: Limits) -> set[str]:
    return {clip.video for clip in _rows(table, hd_table) if limits.broken_by(clip) is None}


def _reasons(names: set[str], inside: Inside, failed: Mapping[str, str], mapping: str | None) -> dict[str, str]:
    """Where missing videos are: in a zip that is here, damaged there, or in one to be fetched."""
    known = {} if mapping is None else zips_of(Path(mapping), names)
    reasons = {name: f"{NOWHERE}; fetch {zip_name}" for name, zip_name in known.items()}
    here = {name: path for name, path in inside.zip_of().items() if name in names}
    reasons |= {name: f"not extracted from {path.name}" for name, path in here.items()}
    return reasons | {name: reason for name, reason in failed.items() if name in names}
