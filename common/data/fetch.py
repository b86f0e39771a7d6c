"""Videos that annotations name by URL, fetched into a media folder; annotations that name the files instead.

A preparation task: training never fetches.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.data.conversations import DataError, read_rows
from common.data.fields import VIDEO_KEYS
from common.data.forms import Conversation, convert
from common.data.parts import SOURCES, WRAPPED
from common.data.shelf import Outcome, Shelf
from common.files import atomic_write_text, write_jsonl
from common.net.download import Downloader

# Where the forms of annotations name a video or its frames.
FIELDS = {*VIDEO_KEYS, "video_id", *WRAPPED, *(name for names in SOURCES.values() for name in names)}
URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|data:|file:)", re.IGNORECASE)


class Annotations(NamedTuple):
    """A file of annotations: its rows as they are, each read, and the URLs of its video or of the video's frames."""

    path: Path
    rows: list[Any]
    read: list[Conversation]
    urls: list[tuple[str, ...]]


def fetch_videos(
    *,
    annotations: Sequence[str],
    media: str,
    target: str,
    download: Downloader,
    parallel: int,
    max_failed: float,
) -> dict[str, int]:
    """Fetches every video that a row names by URL, and writes the rows with the path of the file in its place.

    Rows whose video cannot be had are left out and listed; the others stay as they are and in order. What is there and
    has its checksum is not fetched again, what was begun is gone on with.

    Args:
        annotations: files in any of the forms of `common.data.forms`.
        media: folder for the files, each named by a hash of its URL. Rows that name a file are not touched: where
            there are such, give the folder that they are relative to.
        target: folder for the new annotations, under their old names; `fetched.json` (url, final_url, file, bytes,
            sha256, content_type, date of each file) and `failures.json` (url, rows, reason).
        download: limits.
        parallel: downloads at a time.
        max_failed: share of the URLs that may fail.

    Returns:
        Counts of rows written and left out, of files, and of those that were there already.

    Raises:
        ValueError: too many failed; the lists are written, the annotations are not.
    """
    if parallel < 1 or not 0 <= max_failed <= 1:
        raise ValueError("task.parallel is 1 or more, and task.max_failed is a share from 0 to 1")
    files = [_read(Path(path)) for path in annotations]
    _check_names(files, Path(target))
    urls = list(dict.fromkeys(url for file in files for named in file.urls for url in named))
    outcomes, reused = Shelf(Path(media)).get_all(urls, download=download, parallel=parallel)
    failures = _failures(files, outcomes)
    _write_json(Path(target) / "fetched.json", [outcomes[url] for url in urls if isinstance(outcomes[url], dict)])
    _write_json(Path(target) / "failures.json", failures)
    if len(failures) > max_failed * len(urls):
        raise ValueError(
            f"{len(failures)} of {len(urls)} videos could not be fetched, more than task.max_failed={max_failed}; "
            f"they are listed in {Path(target) / 'failures.json'}, the first: {failures[0]['reason']}"
        )
    kept = [_kept(file, outcomes) for file in files]
    for file, rows in zip(files, kept, strict=True):
        write = write_jsonl if file.path.suffix == ".jsonl" else _write_json
        write(Path(target) / file.path.name, rows)
    written = sum(len(rows) for rows in kept)
    left_out = sum(len(file.rows) for file in files) - written
    fetched = len(urls) - len(failures)
    return {"rows": written, "left_out": left_out, "videos": fetched, "there_already": reused, "failed": len(failures)}


def _read(path: Path) -> Annotations:
    rows = read_rows(path)
    read = [convert(row, number, f"{path} row {number}") for number, row in enumerate(rows)]
    return Annotations(path, rows, read, [_urls(each) for each in read])


def _urls(row: Conversation) -> tuple[str, ...]:
    named = (row.video,) if isinstance(row.video, str) else row.video or ()
    return tuple(each for each in named if URL.match(each))


def _check_names(files: Sequence[Annotations], target: Path) -> None:
    names = [file.path.name for file in files] + ["fetched.json", "failures.json"]
    if len(set(names)) < len(names):
        raise ValueError(f"task.annotations: {', '.join(names)} go into one folder; rename those that are the same")
    for file in files:
        if (target / file.path.name).resolve() == file.path.resolve():
            raise ValueError(f"{file.path} would be overwritten; choose another task.target")


def _failures(files: Sequence[Annotations], outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    rows: dict[str, list[str]] = {}
    for file in files:
        for row, urls in zip(file.read, file.urls, strict=True):
            for url in dict.fromkeys(urls):
                if isinstance(outcomes[url], str):
                    rows.setdefault(url, []).append(row.where)
    return [{"url": url, "rows": listed, "reason": outcomes[url]} for url, listed in rows.items()]


def _kept(file: Annotations, outcomes: Mapping[str, Outcome]) -> list[Any]:
    """The rows whose video is there, in order, with its path in place of its URL."""
    kept = []
    for number, (row, read, urls) in enumerate(zip(file.rows, file.read, file.urls, strict=True)):
        had = {url: outcome["file"] for url in urls if isinstance(outcome := outcomes[url], dict)}
        if len(had) < len(set(urls)):
            continue
        named = _with_paths(row, had, inside=False)
        if _urls(convert(named, number, read.where)):
            raise DataError(read.where, "video", f"a URL stands in none of the fields {', '.join(sorted(FIELDS))}")
        kept.append(named)
    if not kept:
        raise DataError(str(file.path), "video", "none of the rows has a video that could be fetched")
    return kept


def _with_paths(value: Any, paths: Mapping[str, str], *, inside: bool) -> Any:
    """`value` with the path wherever a field of a video holds exactly one of the URLs."""
    if isinstance(value, dict):
        return {key: _with_paths(each, paths, inside=inside or key in FIELDS) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_paths(each, paths, inside=inside) for each in value]
    return paths.get(value, value) if inside and isinstance(value, str) else value


def _write_json(path: Path, rows: Sequence[Any]) -> None:
    atomic_write_text(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
