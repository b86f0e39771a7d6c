"""What the files of a list of clips are like, found out once before anything is planned: length, size, identity.

A survey is kept as JSON lines in parts of some thousand clips, so a killed one goes on where it stopped. It holds
nothing that depends on the machine, and each machine of several reads the parts that others have made meanwhile.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Subset

from common.data.cache import Part, StaleCacheError
from common.files import atomic_write_text, digest, read_jsonl, write_jsonl
from common.progress import track
from common.video.clip import VideoReadError
from common.video.decode import probe
from projects.text_to_video.clip_frames import available, length, numbers
from projects.text_to_video.clip_lists import Listed

SETTINGS = "settings.json"
CLIPS = 4096  # a file of the survey
AHEAD = 64  # for each process


@dataclass(frozen=True)
class Seen:
    """One file.

    Attributes:
        id: of the clip.
        bytes: its size; -1 where there is none.
        reason: why it cannot be read; empty where it can.
        digest: identity of its content.
        frames: how many there are at the rate that is asked for.
        height: pixels.
        width: pixels.
        repeated: by length in frames, how many of the first frames repeat the one before.
        caption: where the file itself holds one.
    """

    id: str
    bytes: int
    reason: str = ""
    digest: str = ""
    frames: int = 0
    height: int = 0
    width: int = 0
    repeated: dict[str, int] = field(default_factory=dict)
    caption: str = ""


class Files(Dataset[Seen], ABC):
    """Files to look at, one after the other.

    Attributes:
        ids: names of the clips.
        paths: where they are.
        settings: what the findings depend on besides the files.
    """

    def __init__(self, ids: Sequence[str], paths: Sequence[Path], settings: Mapping[str, Any]) -> None:
        self.ids, self.paths, self.settings = ids, paths, dict(settings)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Seen:
        return self.look(self.ids[index], self.paths[index])

    @abstractmethod
    def look(self, name: str, path: Path) -> Seen:
        """Finds out what a file is like; what is wrong with it is part of that, not an error."""


class Videos(Files):
    """Videos: their packets tell how long they are, no frame but the first is decoded."""

    def __init__(
        self, rows: Sequence[Listed], *, media: Path, fps: float, lengths: Sequence[int], backend: str
    ) -> None:
        settings = {"fps": float(fps), "lengths": [*lengths], "backend": backend}
        super().__init__([row.id for row in rows], [media / row.video for row in rows], settings)
        self.fps, self.lengths, self.backend = fps, lengths, backend

    def look(self, name: str, path: Path) -> Seen:
        """Length at the frame rate, size, identity."""
        try:
            info = probe(path, backend=self.backend)
        except VideoReadError as error:
            return Seen(name, bytes_of(path), reason=error.reason)
        repeated = {}
        for frames in self.lengths:
            taken = numbers(info, fps=self.fps, frames=frames)
            repeated[str(frames)] = len(taken) - len(np.unique(taken))
        frames = available(length(info), self.fps)
        return Seen(name, bytes_of(path), "", digest(path), frames, info.height, info.width, repeated)


def survey(folder: Path, files: Files, *, num_workers: int, part: Part) -> list[Seen]:
    """Looks at all files of a list, or reads what earlier looks have found.

    Args:
        folder: of the parts of the survey.
        files: to look at.
        num_workers: processes; 0 looks in this one.
        part: of several machines, which one this is: each begins with parts of its own.

    Raises:
        StaleCacheError: the survey that is there is one of other clips, or a file has another size than then.
    """
    _open(folder, files.settings)
    starts = range(0, len(files), CLIPS)
    for number in sorted(range(len(starts)), key=lambda number: (number % part.count != part.index, number)):
        place = folder / f"{number:05d}.jsonl"
        if not place.exists():
            some = range(starts[number], min(starts[number] + CLIPS, len(files)))
            seen = _look(Subset(files, some), num_workers, f"files {number + 1}/{len(starts)}")
            write_jsonl(place, [asdict(each) for each in seen])
    found = [Seen(**row) for number in range(len(starts)) for row in read_jsonl(folder / f"{number:05d}.jsonl")]
    _refuse_other(folder, files, found)
    return found


def _open(folder: Path, settings: Mapping[str, Any]) -> None:
    place = folder / SETTINGS
    if not place.exists():
        atomic_write_text(place, json.dumps(settings) + "\n")
    elif (found := json.loads(place.read_text())) != settings:
        raise StaleCacheError(
            f"{folder.parent} was begun with other settings, {found} and not {dict(settings)}; remove it, or choose "
            "another task.cache"
        )


def _look(files: Subset[Seen], num_workers: int, description: str) -> list[Seen]:
    workers = min(num_workers, len(files))
    loader = DataLoader(files, batch_size=None, num_workers=workers, prefetch_factor=AHEAD if workers else None)
    return list(track(iter(loader), description=description, total=len(files)))


def _refuse_other(folder: Path, files: Files, found: Sequence[Seen]) -> None:
    remedy = f"remove {folder.parent}, or choose another task.cache"
    if [seen.id for seen in found] != [*files.ids]:
        raise StaleCacheError(f"{folder} is about other clips than those that are given; {remedy}")
    for seen, path in zip(found, files.paths, strict=True):
        if (now := bytes_of(path)) != seen.bytes:
            raise StaleCacheError(f"{path} has {now} bytes, and had {seen.bytes} when it was looked at; {remedy}")


def bytes_of(path: Path) -> int:
    """Size of a file; -1 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
