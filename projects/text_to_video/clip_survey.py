"""What the files of a list of clips are like, found out once before anything is planned: length, size, identity.

A survey is kept as JSON lines in parts of some thousand clips, so a killed one goes on where it stopped. It holds
nothing that depends on the machine, and each machine of several reads the parts that others have made meanwhile.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset

from common.data.cache import Part, StaleCacheError
from common.files import digest, read_jsonl, write_jsonl
from common.progress import track
from common.video.clip import VideoReadError
from common.video.decode import probe
from projects.text_to_video.clip_frames import available, length, numbers
from projects.text_to_video.clip_lists import Listed

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
    """

    id: str
    bytes: int
    reason: str = ""
    digest: str = ""
    frames: int = 0
    height: int = 0
    width: int = 0
    repeated: dict[str, int] = field(default_factory=dict)


class Files(Dataset[Seen]):
    """Looks at one file after the other."""

    def __init__(
        self, rows: Sequence[Listed], *, media: Path, fps: float, lengths: Sequence[int], backend: str
    ) -> None:
        self.rows, self.media, self.fps, self.lengths, self.backend = rows, media, fps, lengths, backend

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Seen:
        row = self.rows[index]
        path = self.media / row.video
        try:
            info = probe(path, backend=self.backend)
        except VideoReadError as error:
            return Seen(row.id, _bytes(path), reason=error.reason)
        repeated = {}
        for frames in self.lengths:
            taken = numbers(info, fps=self.fps, frames=frames)
            repeated[str(frames)] = len(taken) - len(np.unique(taken))
        frames = available(length(info), self.fps)
        return Seen(row.id, _bytes(path), "", digest(path), frames, info.height, info.width, repeated)


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
    starts = range(0, len(files), CLIPS)
    for number in sorted(range(len(starts)), key=lambda number: (number % part.count != part.index, number)):
        place = folder / f"{number:05d}.jsonl"
        if not place.exists():
            rows = files.rows[starts[number] : starts[number] + CLIPS]
            some = Files(rows, media=files.media, fps=files.fps, lengths=files.lengths, backend=files.backend)
            write_jsonl(place, (asdict(seen) for seen in _look(some, num_workers, f"files {number + 1}/{len(starts)}")))
    found = [Seen(**row) for number in range(len(starts)) for row in read_jsonl(folder / f"{number:05d}.jsonl")]
    _refuse_other(folder, files, found)
    return found


def _look(files: Files, num_workers: int, description: str) -> list[Seen]:
    workers = min(num_workers, len(files))
    loader = DataLoader(files, batch_size=None, num_workers=workers, prefetch_factor=AHEAD if workers else None)
    return list(track(iter(loader), description=description, total=len(files)))


def _refuse_other(folder: Path, files: Files, found: Sequence[Seen]) -> None:
    remedy = f"remove {folder.parent}, or choose another task.cache"
    if [seen.id for seen in found] != [row.id for row in files.rows]:
        raise StaleCacheError(f"{folder} is about other clips than the list that is given; {remedy}")
    lengths = {str(each) for each in files.lengths}
    if any(seen.repeated.keys() != lengths for seen in found if not seen.reason):
        raise StaleCacheError(f"{folder} was made for buckets of other lengths; {remedy}")
    for seen, row in zip(found, files.rows, strict=True):
        if (now := _bytes(files.media / row.video)) != seen.bytes:
            raise StaleCacheError(
                f"{files.media / row.video} has {now} bytes and had {seen.bytes} when it was looked at; {remedy}"
            )


def _bytes(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
