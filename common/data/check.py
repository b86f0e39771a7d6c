"""Reading an annotation file through, with its media and features, before anything is trained on it.

Where loading stops at the first bad row, this lists all of them.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from common.data.cache import Cache
from common.data.conversations import NOISE, Conversation, DataError, resolve_source
from common.data.forms import convert
from common.files import write_jsonl
from common.progress import track
from common.video.decode import VideoReadError, probe, read
from common.video.sample import midpoint

log = logging.getLogger(__name__)

Check = Callable[[Conversation], None]  # raises DataError


def check_annotations(
    *, annotations: Sequence[str], media: str | None, features: str | None, frames: int, backend: str, report: str
) -> dict[str, int]:
    """Reads everything that a training would, and lists every bad row by file, row, field and remedy.

    Args:
        annotations: files in any of the forms of `common.data.forms`.
        media: folder of the videos; null leaves them out. Each video is opened once and its packets are read.
        features: folder of a cache; null leaves it out. Each entry is read once.
        frames: to decode of each video, spread over it; 0 only opens the file.
        backend: video reader.
        report: file to write the bad rows to, one JSON object a line.

    Returns:
        Counts of rows and videos.

    Raises:
        ValueError: there are bad rows, which have been logged and written; the command ends with a status of 1.
    """
    checks: list[Check] = [_check_noise]
    if media is not None:
        checks.append(_media_check(Path(media), frames=frames, backend=backend))
    if features is not None:
        checks.append(_features_check(Cache(Path(features))))
    rows = [row for file in annotations for row in read_all(Path(file))]
    problems: list[DataError] = []
    for row in track(rows, description="rows"):
        problems += [row] if isinstance(row, DataError) else _problems(row, checks)
    for problem in problems:
        log.error("%s", problem)
    write_jsonl(Path(report), [{"problem": str(problem)} for problem in problems])
    if problems:
        raise ValueError(f"{len(problems)} problems in {len(rows)} rows, listed above and in {report}")
    videos = {row.video for row in rows if isinstance(row, Conversation) and row.video is not None}
    return {"rows": len(rows), "videos": len(videos), "problems": 0}


def read_all(path: Path) -> list[Conversation | DataError]:
    """Each row of an annotation file, or what is wrong with it.

    Raises:
        DataError: the file as a whole is missing, empty, or not JSON.
    """
    rows: list[Conversation | DataError] = []
    for number, row in enumerate(_rows(path)):
        try:
            rows.append(row if isinstance(row, DataError) else convert(row, number, f"{path} row {number}"))
        except DataError as error:
            rows.append(error)
    if not rows:
        raise DataError(str(path), "file", "holds no rows")
    return rows


def _rows(path: Path) -> Iterator[object]:
    if not path.is_file():
        raise DataError(str(path), "file", "is not there; check the path of the annotations")
    if path.suffix == ".jsonl":
        with open(path, encoding="utf-8") as file:
            for number, text in enumerate(file):
                try:
                    yield json.loads(text)
                except json.JSONDecodeError as error:
                    yield DataError(f"{path} row {number}", "line", f"is not JSON ({error}); mend it or take it out")
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(str(path), "file", f"not JSON ({error}); one row a line is named .jsonl") from error
    if not isinstance(content, list):
        raise DataError(str(path), "file", f"holds {type(content).__name__}; it should hold a list of rows")
    yield from content


def _problems(row: Conversation, checks: Sequence[Check]) -> list[DataError]:
    found = []
    for check in checks:
        try:
            check(row)
        except DataError as error:
            found.append(error)
    return found


def _check_noise(row: Conversation) -> None:
    if any(turn.assistant is not None and turn.assistant.strip() == NOISE for turn in row.turns):
        raise DataError(row.where, "answer", f"holds nothing but {NOISE}; take the row out")


def _media_check(media: Path, *, frames: int, backend: str) -> Check:
    seen: dict[Path | tuple[Path, ...], str | None] = {}

    def check(row: Conversation) -> None:
        if row.video is None:
            return
        source = resolve_source(media, row)
        if source not in seen:
            seen[source] = _unreadable(source, frames=frames, backend=backend)
        if seen[source] is not None:
            raise DataError(row.where, "video", f"{seen[source]}; replace the file or take the row out")

    return check


def _unreadable(source: Path | tuple[Path, ...], *, frames: int, backend: str) -> str | None:
    """What is wrong with a video, named by its file, or None."""
    try:
        if frames:
            read(source, lambda info: list(midpoint(info.num_frames, frames)), backend=backend)
        else:
            probe(source, backend=backend)
    except VideoReadError as error:
        return str(error)
    return None


def _features_check(cache: Cache) -> Check:
    shape = next((tuple(cache[name].shape) for name in cache), None)
    seen: dict[str, str | None] = {}

    def wrong(name: str) -> str | None:
        if name not in cache:
            return f"{name} has no features in {cache.folder}; run the feature task for it, or take the row out"
        tensor = cache[name]
        if tuple(tensor.shape) != shape or not torch.isfinite(tensor).all():
            return f"features of {name} in {cache.folder} are {tuple(tensor.shape)} or not finite; make the cache again"
        return None

    def check(row: Conversation) -> None:
        if row.video is None:
            return
        name = str(row.video)
        if name not in seen:
            seen[name] = wrong(name)
        problem = seen[name]
        if problem is not None:
            raise DataError(row.where, "video", problem)

    return check
