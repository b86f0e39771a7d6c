"""What is to be encoded: clips of each split, from a table of clips or from files of captions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import read_jsonl
from projects.text_to_video.clips import RECORD, SPLITS, TABLE, media_of

# What a source tells of a clip and what is stored of it are two things.
RENAMED = {"frames": "source_frames", "fps": "source_fps", "seconds": "source_seconds"}
NEEDED = ("id", "video", "caption")


class ClipListError(ValueError):
    """A list of clips is missing, or a row of it cannot be used: names the file, the row and the remedy."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One clip.

    Attributes:
        id: unique within its split.
        video: path relative to the folder of the media.
        caption: as in the source.
        columns: what else the source tells of it, by name.
    """

    id: str
    video: str
    caption: str
    columns: Mapping[str, Any]


def clip_lists(table: str | Path, media: str | None) -> tuple[dict[str, list[Listed]], Path]:
    """Clips by split, and the folder that their paths are relative to.

    Args:
        table: a table of clips, see `clips`, by its folder or itself; or a folder of <split>.jsonl whose rows have id,
            video and caption, such as the built-in captions.
        media: folder of the videos; None for where the table says, or else for the one that holds the folder or file.

    Raises:
        ClipListError: there is no such list, a row lacks something, or an id appears twice in a split.
    """
    path = Path(table)
    if (path / TABLE).is_file():
        path = path / TABLE
    if path.is_dir():
        files = {split: path / f"{split}.jsonl" for split in SPLITS if (path / f"{split}.jsonl").is_file()}
        splits = {split: list(_rows(file)) for split, file in files.items()}
        where = path.parent
    else:
        if not path.is_file():
            raise ClipListError(
                f"no list of clips at {path}; make it with its preparation task, or name it in task.table"
            )
        splits, where = _by_split(path), media_of(path) if path.with_name(RECORD).is_file() else path.parent
    if not any(splits.values()):
        raise ClipListError(
            f"{path} holds no clips; it takes {TABLE}, or {', '.join(f'{each}.jsonl' for each in SPLITS)}"
        )
    for split, rows in splits.items():
        _refuse_twice(rows, path, split)
    return {split: rows for split, rows in splits.items() if rows}, where if media is None else Path(media)


def _rows(file: Path) -> Iterable[Listed]:
    for number, row in enumerate(read_jsonl(file), start=1):
        yield _listed(row, f"{file} row {number}")


def _by_split(file: Path) -> dict[str, list[Listed]]:
    splits: dict[str, list[Listed]] = {split: [] for split in SPLITS}
    for number, row in enumerate(read_jsonl(file), start=1):
        split = row.get("split")
        if split not in splits:
            raise ClipListError(f"{file} row {number}: split={split!r} is none of {', '.join(SPLITS)}")
        splits[split].append(_listed(row, f"{file} row {number}"))
    return splits


def _listed(row: Mapping[str, Any], where: str) -> Listed:
    for name in NEEDED:
        if not isinstance(row.get(name), str) or not row[name]:
            raise ClipListError(f"{where}: {name} is missing; a row has {', '.join(NEEDED)}")
    rest = {
        RENAMED.get(name, name): value
        for name, value in row.items()
        if name not in (*NEEDED, "split") and value is not None
    }
    return Listed(row["id"], row["video"], row["caption"], rest)


def _refuse_twice(rows: Iterable[Listed], path: Path, split: str) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise ClipListError(f"{path}: two clips of split {split} have the id {row.id}; take one out")
        seen.add(row.id)
