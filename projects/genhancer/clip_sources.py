"""Which clips there are, and what each shows: Something-Something V2, the built-in world, or any folder of videos."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from common.data.something import LabelError, read_labels, without_brackets
from common.files import digest, read_jsonl
from projects.genhancer.clip_media import VIDEOS
from projects.genhancer.media import files_below

SPLITS = ("train", "val", "test")


class SourceError(ValueError):
    """The clips of a source cannot be listed; names the file or key, and the remedy."""


class SourceClip(NamedTuple):
    """A clip before its frames are taken.

    Attributes:
        id: of the clip, unique in its split.
        split: where it belongs.
        file: relative to the source's folder.
        label: its class, where it has one.
        caption: what it shows in words, where that is told.
    """

    id: str
    split: str
    file: str
    label: str | None
    caption: str | None


class ClipSource(Protocol):
    """A place that clips come from."""

    @property
    def folder(self) -> Path:
        """Of the files."""

    def clips(self) -> list[SourceClip]:
        """All clips, in an order that does not change."""

    def identity(self) -> Mapping[str, Any]:
        """What the list depends on, as JSON."""


class SomethingSomething:
    """Something-Something V2 (arXiv:1706.04261): webm files and the official label files."""

    def __init__(self, *, videos: str, labels: Mapping[str, str], answers: str | None = None) -> None:
        """
        Args:
            videos: folder of <id>.webm.
            labels: official file of each split; that of the test has ids alone.
            answers: the official file of the test's classes, lines "id;template"; None leaves them without a label.
        """
        self.folder = Path(videos)
        self.labels = {split: Path(path) for split, path in labels.items()}
        self.answers = None if answers is None else Path(answers)
        if not self.labels or set(self.labels) - {*SPLITS}:
            raise SourceError(f"task.source.labels names {list(labels)}; it may name {', '.join(SPLITS)}")

    def clips(self) -> list[SourceClip]:
        """Clips by split in the order of their files; the label is the template without brackets.

        Raises:
            LabelError: a file is none of labels, or a clip of train or val has no template.
        """
        answers = {} if self.answers is None else _answers(self.answers)
        found = []
        for split, path in self.labels.items():
            for row in read_labels(path):
                template = answers.get(row.id) if row.template is None else row.template
                if template is None and split != "test":
                    raise LabelError(f"{row.where} has no template; only the official test file has none")
                label = None if template is None else without_brackets(template)
                found.append(SourceClip(row.id, split, f"{row.id}.webm", label, row.label))
        return found

    def identity(self) -> Mapping[str, Any]:
        """Digests of the label files."""
        files = {**self.labels, **({} if self.answers is None else {"answers": self.answers})}
        missing = [path for path in files.values() if not path.is_file()]
        if missing:
            raise LabelError(f"{missing[0]} is not there; see task.source.labels")
        return {"source": "something_something_v2", "labels": {name: digest(path) for name, path in files.items()}}


class VideoFolder:
    """Videos below a folder, in folders train, val and test or all for training; with a table of labels or none."""

    def __init__(self, *, folder: str, table: str | None = None) -> None:
        """
        Args:
            folder: of the files.
            table: rows {id, video, split, label, caption}, one JSON object a line: video relative to the folder, split
                "train" where there is none, label and caption as far as they are known. None takes every video; one in
                a folder of a split is of that split.
        """
        self.folder, self.table = Path(folder), None if table is None else Path(table)

    def clips(self) -> list[SourceClip]:
        """Clips in the order of the table, or of their names."""
        if self.table is None:
            return [self._clip({"video": file}, file) for file in files_below(self.folder, VIDEOS)]
        rows = read_jsonl(self.table)
        return [self._clip(row, f"{self.table} line {number}") for number, row in enumerate(rows, start=1)]

    def _clip(self, row: Mapping[str, Any], where: str) -> SourceClip:
        if not isinstance(row.get("video"), str):
            raise SourceError(f"{where} has no video, a path relative to {self.folder}")
        file = row["video"]
        first = Path(file).parts[0]
        split = row.get("split", first if first in SPLITS else "train")
        if split not in SPLITS:
            raise SourceError(f"{where}: split={split!r} is not one of {', '.join(SPLITS)}")
        name = row.get("id", Path(file).with_suffix("").as_posix())
        label, caption = (None if row.get(key) is None else str(row[key]) for key in ("label", "caption"))
        return SourceClip(str(name), split, file, label, caption)

    def identity(self) -> Mapping[str, Any]:
        """Digest of the table."""
        return {"source": "videos", "table": None if self.table is None else digest(self.table)}


class BuiltInClips:
    """The clips of the built-in world; the label of one with a single object is the direction of its motion."""

    def __init__(self, *, root: str) -> None:
        """
        Args:
            root: `task.root` of `python -m launchers.prepare task=shapes`.
        """
        self.folder = Path(root)

    def clips(self) -> list[SourceClip]:
        """Clips in the order of their list, with captions where those have been written.

        Raises:
            SourceError: the list is not there.
        """
        captions: dict[str, str] = {}
        for split in SPLITS:
            path = self.folder / "captions" / f"{split}.jsonl"
            captions |= {row["id"]: row["caption"] for row in read_jsonl(path)} if path.is_file() else {}
        return [
            SourceClip(
                row["id"],
                row["split"],
                row["video"],
                row["things"][0]["direction"] if len(row["things"]) == 1 else None,
                captions.get(row["id"]),
            )
            for row in read_jsonl(self._list())
        ]

    def identity(self) -> Mapping[str, Any]:
        """Digests of the list and the captions."""
        files = [self._list(), *sorted(self.folder.glob("captions/*.jsonl"))]
        return {"source": "built_in", "lists": {path.name: digest(path) for path in files}}

    def _list(self) -> Path:
        path = self.folder / "clips.jsonl"
        if not path.is_file():
            raise SourceError(f"{path} is not there; run python -m launchers.prepare task=shapes")
        return path


def _answers(path: Path) -> dict[str, str]:
    """Template by id, of the file of the test's classes."""
    if not path.is_file():
        raise LabelError(f"{path} is not there; see task.source.answers")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter=";"))
    wrong = [number for number, row in enumerate(rows, start=1) if len(row) != 2]
    if wrong:
        raise LabelError(f"{path} line {wrong[0]}: not id;template")
    return {name.strip(): template.strip() for name, template in rows}
