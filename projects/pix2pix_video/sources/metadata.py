"""Instructions that lie beside folders of frames: metadata.json or metadata.jsonl, and which folder each row means."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from common.files import read_jsonl
from projects.pix2pix_video.sources.found import SPLITS, SourceError

NAMES = ("metadata.json", "metadata.jsonl")
PATH, INSTRUCTION = ("video_path", "input_frames_folder"), ("instruction", "edit_prompt")  # the first that a row has


class Entry(NamedTuple):
    """A row of a metadata file.

    Attributes:
        where: file and row, for messages.
        file: the metadata file.
        clip: folder of the frames relative to the root, with forward slashes; it begins with the split.
        instruction: what is asked for.
        task: kind of instruction, or "" where the row names none.
    """

    where: str
    file: Path
    clip: str
    instruction: str
    task: str


class Fault(NamedTuple):
    """A row that cannot be used."""

    where: str
    file: Path
    reason: str


def metadata_files(root: Path) -> list[Path]:
    """The metadata files of a root, of its splits, and of the folders of tasks in them.

    Raises:
        SourceError: there are none, or two in one folder.
    """
    folders = [root]
    for split in (root / name for name in SPLITS):
        if split.is_dir():
            folders += [split, *sorted(path for path in split.iterdir() if path.is_dir())]
    files = []
    for folder in folders:
        here = [folder / name for name in NAMES if (folder / name).is_file()]
        if len(here) > 1:
            raise SourceError(f"{folder} holds both {' and '.join(NAMES)}; take one away")
        files += here
    if not files:
        raise SourceError(
            f"{root} holds no {' or '.join(NAMES)}, nor do its splits: rows of {{video_path, instruction}}"
        )
    return files


def entries(file: Path, root: Path) -> Iterator[Entry | Fault]:
    """The rows of a metadata file.

    Raises:
        SourceError: the file is not a list of rows.
    """
    for number, row in enumerate(_rows(file)):
        where = f"{file.relative_to(root).as_posix()} row {number}"
        path, instruction, task = (_text(row, keys) for keys in (PATH, INSTRUCTION, ("task_type",)))
        if path is None or instruction is None:
            missing = (PATH if path is None else INSTRUCTION)[0]
            yield Fault(where, file, f"has no {missing}; add it, or take the row out")
            continue
        clip = _clip(path, file.parent, root)
        if clip is None:
            yield Fault(where, file, f"{path} is no folder of a split ({', '.join(SPLITS)}) below {root}")
        else:
            yield Entry(where, file, clip, instruction, task or "")


def _rows(file: Path) -> list[Any]:
    if file.suffix == ".jsonl":
        return list(read_jsonl(file))
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SourceError(f"{file} is not JSON ({error}); one row a line is named metadata.jsonl") from error
    if not isinstance(content, list):
        raise SourceError(f"{file} holds {type(content).__name__}; it should hold a list of rows")
    return content


def _text(row: Any, keys: Sequence[str]) -> str | None:
    values = (row.get(key) for key in keys) if isinstance(row, dict) else ()
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), None)


def _clip(path: str, beside: Path, root: Path) -> str | None:
    """The clip's folder relative to the root.

    A path is relative to the root, to its file or to its split; one of another machine is known by the part that
    begins with the name of a split.
    """
    parts = PureWindowsPath(path).parts  # that reads both kinds of slashes
    candidates = [root / path, beside / path]
    starts = [i for i, part in enumerate(parts) if part in SPLITS]
    candidates += [root.joinpath(*parts[i:]) for i in reversed(starts)]
    for candidate in (found for found in candidates if found.is_dir()):
        relative = Path(os.path.relpath(candidate, root))  # by names alone: splits and clips may be links
        if len(relative.parts) > 1 and relative.parts[0] in SPLITS:
            return relative.as_posix()
    return None
