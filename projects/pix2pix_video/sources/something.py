"""Something-Something V2 (arXiv:1706.04261): webm clips with labels; templates of labels decide the task."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from common.data.something import LabelRow, read_labels, without_brackets
from common.files import digest
from projects.pix2pix_video.rows import EditRow
from projects.pix2pix_video.sources.extract import Look, Suffix, Video, extract, file_of
from projects.pix2pix_video.sources.found import SPLITS, Found, Sample, Skipped, SourceError
from projects.pix2pix_video.sources.windows import Windows

log = logging.getLogger(__name__)


class Labelled(NamedTuple):
    """A clip that belongs to a task."""

    split: str
    id: str
    task: str
    label: str


class SomethingSomething:
    """The clips of some templates; their frames are written once, at the rate of the data set."""

    def __init__(
        self,
        *,
        videos: str,
        labels: Mapping[str, str],
        frames: str,
        templates: Mapping[str, Sequence[str]],
        fps: float = 12.0,
        suffix: Suffix = "jpg",
        quality: int = 95,
        per_task: int | None = None,
        seed: int = 0,
        backend: str = "pyav",
    ) -> None:
        """Names folders and tasks.

        Args:
            videos: folder of <id>.webm.
            labels: official file of each split, a list of {id, label, template, placeholders}. The official test file
                has no templates and cannot be one of them.
            frames: folder that the frames are written to.
            templates: of each task; brackets and case do not count.
            fps: frames a second that histories are counted in.
            suffix: "jpg" or "png".
            quality: of jpg.
            per_task: greatest number of clips a task and split, drawn by the seed; None for all.
            seed: of that draw.
            backend: video reader.
        """
        unknown = sorted(set(labels) - set(SPLITS))
        if unknown or "train" not in labels:
            raise ValueError(f"task.source.labels names {list(labels)}; it needs train, and may name val and test")
        if per_task is not None and per_task < 1:
            raise ValueError(f"task.source.per_task={per_task} must be 1 or more, or null")
        self.videos, self.frames = Path(videos), Path(frames)
        self.labels = {split: Path(labels[split]) for split in SPLITS if split in labels}
        self.tasks = _tasks(templates)
        self.fps, self.suffix, self.quality, self.backend = fps, suffix, quality, backend
        self.per_task, self.seed = per_task, seed

    @property
    def media(self) -> Path:
        """The folder of frames."""
        return self.frames

    def identity(self) -> Mapping[str, Any]:
        """Digests of the labels, names and sizes of the clips, and the settings."""
        state = hashlib.blake2b(digest_size=16)
        for clip in self._clips:
            path = self._path(clip)
            state.update(f"{path.name} {path.stat().st_size if path.is_file() else None}\n".encode())
        return {
            "source": "something_something_v2",
            "labels": {split: digest(path) for split, path in self.labels.items()},
            "templates": self.tasks,
            "videos": state.hexdigest(),
            "fps": self.fps,
            "suffix": self.suffix,
            "quality": self.quality,
            "per_task": self.per_task,
            "seed": self.seed if self.per_task else None,
        }

    def collect(self, windows: Windows, *, workers: int) -> Found:
        """Writes the frames that the windows need, and lists the rows."""
        clips = self._clips
        look = Look(windows=windows, fps=self.fps, suffix=self.suffix, quality=self.quality, backend=self.backend)
        videos = [Video(clip.id, self._path(clip)) for clip in clips]
        counts = extract(videos, folder=self.frames, look=look, source={"source": "videos"}, workers=workers)
        found = Found(clips=len(clips))
        for clip, count in zip(clips, counts, strict=True):
            if isinstance(count, str):
                found.skipped.append(Skipped(clip.id, clip.split, self._path(clip).name, count))
            else:
                found.samples += [Sample(row, clip.split, clip.id) for row in self._rows(clip, count, windows)]
        return found

    def _rows(self, clip: Labelled, count: int, windows: Windows) -> list[EditRow]:
        name = f"{clip.split}/{clip.task}/{clip.id}"
        return [
            EditRow(
                id=name if windows.step is None else f"{name}/{window.history[0]:04d}",
                history=tuple(file_of(clip.id, number, self.suffix) for number in window.history),
                target=file_of(clip.id, window.target, self.suffix),
                instruction=clip.label,
                task=clip.task,
            )
            for window in windows.of(count)
        ]

    def _path(self, clip: Labelled) -> Path:
        return self.videos / f"{clip.id}.webm"

    @cached_property
    def _clips(self) -> list[Labelled]:
        """Clips of the tasks, in the order of the files.

        Raises:
            SourceError: a task has no clip, or a file is not one of labels.
        """
        clips = [clip for split, path in self.labels.items() for clip in self._labelled(split, path)]
        seen: dict[str, str] = {}
        for clip in clips:
            if seen.setdefault(clip.id, clip.split) != clip.split:
                raise SourceError(
                    f"clip {clip.id} is in {seen[clip.id]} and in {clip.split}; take it out of one of them"
                )
        empty = sorted(set(self.tasks.values()) - {clip.task for clip in clips})
        if empty:
            raise SourceError(f"no clip has a template of {', '.join(empty)}; see task.source.templates")
        return clips

    def _labelled(self, split: str, path: Path) -> list[Labelled]:
        by_task: dict[str, list[Labelled]] = defaultdict(list)
        used = set()
        rows = read_labels(path)
        for row in rows:
            template = _plain(_told(row, "template"))
            task = self.tasks.get(template)
            if task is not None:
                used.add(template)
                by_task[task].append(Labelled(split, row.id, task, _told(row, "label")))
        for template in sorted(self.tasks.keys() - used):
            log.warning("%s: no clip has the template %r", path.name, template)
        kept = {clip.id for clips in by_task.values() for clip in self._drawn(clips)}
        order = {row.id: number for number, row in enumerate(rows)}
        found = [clip for clips in by_task.values() for clip in clips if clip.id in kept]
        return sorted(found, key=lambda clip: order[clip.id])

    def _drawn(self, clips: list[Labelled]) -> list[Labelled]:
        """The first clips by a hash of seed and name: others beside them do not change which."""
        key = {clip.id: hashlib.blake2b(f"{self.seed}/{clip.id}".encode(), digest_size=8).digest() for clip in clips}
        return sorted(clips, key=lambda clip: key[clip.id])[: self.per_task]


def _tasks(templates: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Task by template."""
    tasks: dict[str, str] = {}
    for task, names in templates.items():
        for name in names:
            if tasks.setdefault(_plain(name), task) != task:
                raise ValueError(f"template {name!r} is one of {tasks[_plain(name)]} and of {task}; keep one")
    if not tasks:
        raise ValueError("task.source.templates names none")
    return tasks


def _plain(template: str) -> str:
    return without_brackets(template).lower()


def _told(row: LabelRow, key: str) -> str:
    value = row.label if key == "label" else row.template
    if value is None:
        raise SourceError(
            f"{row.where} has no {key}, as in the official test file; leave that split out of task.source.labels, and "
            "hold rows of train out for it with 'task.merge=[test]'"
        )
    return value
