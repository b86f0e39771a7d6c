"""Clips as rows: whole in tars, or as video files that are decoded when they are asked for."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.tar import TarSamples, find_tars
from common.files import digest, read_jsonl
from common.video.clip import VideoInfo, VideoReadError
from common.video.decode import probe, read
from common.video.sample import nearest_to_times
from projects.genhancer.media import Choose, Shown, decoded, files_below, hash_of
from projects.genhancer.sampling import Seconds

VIDEOS = frozenset({".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".gif"})
LATE = 0.1  # of a period, by which the last frame may come too early: webm rounds times to milliseconds
TABLE = "clips.jsonl"  # beside the tars of a split


class ClipTars:
    """Clips in tars, as `prepare task=clip_frames` writes them: `<key>.<k>.jpg` for each frame and `<key>.json`."""

    times_at_hand = True

    def __init__(self, *, folder: str) -> None:
        """
        Args:
            folder: of a split.

        Raises:
            TarError: a tar cannot be read.
            ValueError: the table of clips is not there, or is not that of these tars.
        """
        self.folder = Path(folder)
        table = self.folder / TABLE
        if not table.is_file():
            raise ValueError(f"{table} is not there; make it with python -m launchers.prepare task=clip_frames")
        rows = read_jsonl(table)
        self.samples = TarSamples(find_tars(self.folder))
        keys = [self.samples.key(number) for number in range(len(self.samples))]
        if keys != [row["key"] for row in rows]:
            raise ValueError(
                f"{table} lists {len(rows)} clips, the tars beside it hold {len(keys)}, and they should be the same in "
                "one order; a clip lies whole in one tar. Run task=clip_frames into a new folder"
            )
        # Columns: a list of rows would grow in every loader process that touches it.
        self._names = np.array([row["id"] for row in rows], np.str_)
        self._starts = np.cumsum([0, *(len(row["seconds"]) for row in rows)])
        self._seconds = np.concatenate([np.zeros(0), *(np.array(row["seconds"], np.float64) for row in rows)])

    def __len__(self) -> int:
        return len(self._names)

    @property
    def fingerprint(self) -> str:
        return hash_of([self.samples.fingerprint, digest(self.folder / TABLE)])

    def name(self, number: int) -> str:
        return str(self._names[number])

    def row(self, number: int) -> dict[str, Any]:
        """All that is told of a clip: label, caption, source, seconds and numbers of its frames there, and its size."""
        return dict(json.loads(self.samples.read(number, "json")))

    def label(self, number: int) -> str | None:
        label = self.row(number)["label"]
        return None if label is None else str(label)

    def seconds(self, number: int) -> Seconds:
        return self._seconds[self._starts[number] : self._starts[number + 1]]

    def show(self, number: int, choose: Choose) -> Shown:
        seconds = self.seconds(number)
        frames = [decoded(self.samples, number, f"{frame}.jpg") for frame in choose(seconds)]
        return Shown(np.stack(frames), seconds)


class VideoFiles:
    """Video files, decoded when they are asked for. Their lengths are known only then."""

    times_at_hand = False

    def __init__(
        self, *, folder: str, table: str | None = None, fps: float | None = None, backend: str = "pyav"
    ) -> None:
        """
        Args:
            folder: of the files; with all folders below it where there is no table.
            table: rows {id, video, label or caption}, one JSON object a line; videos relative to the folder.
            fps: frames a second among which frames are chosen, by presentation time; None for all.
            backend: video reader.

        Raises:
            ValueError: there are no videos, or two of one id.
        """
        self.folder, self.fps, self.backend = Path(folder), fps, backend
        if table is None:
            self.rows: list[dict[str, Any]] = [{"id": file, "video": file} for file in files_below(self.folder, VIDEOS)]
        else:
            self.rows = read_jsonl(Path(table))
        if len({row["id"] for row in self.rows}) < len(self.rows) or not self.rows:
            raise ValueError(f"{table or folder} lists no videos, or two of one id")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        files = ((row["id"], self.folder / row["video"]) for row in self.rows)
        return hash_of([[name, path.stat().st_size if path.is_file() else None] for name, path in files] + [self.fps])

    def name(self, number: int) -> str:
        return str(self.rows[number]["id"])

    def label(self, number: int) -> str | None:
        row = self.rows[number]
        label = row.get("label", row.get("caption"))
        return None if label is None else str(label)

    def seconds(self, number: int) -> Seconds:
        return _times(self._path(number), self.fps, self.backend)

    def show(self, number: int, choose: Choose) -> Shown:
        times: list[Seconds] = []

        def places(info: VideoInfo) -> list[int]:
            found = at_rate(info.seconds, self.fps)
            times.append(info.seconds[found])
            return [int(found[frame]) for frame in choose(times[0])]

        clip = read(self._path(number), places, backend=self.backend)
        if clip.corrupt_frames:
            raise VideoReadError(self._path(number), f"{clip.corrupt_frames} frames are damaged; fetch it again")
        return Shown(clip.frames, times[0])

    def _path(self, number: int) -> Path:
        return self.folder / str(self.rows[number]["video"])


@lru_cache(maxsize=1 << 18)
def _times(path: Path, fps: float | None, backend: str) -> Seconds:
    """Times of the frames of a file; each file is looked into once."""
    seconds = probe(path, backend=backend).seconds
    return seconds[at_rate(seconds, fps)]


def at_rate(seconds: Seconds, fps: float | None) -> NDArray[np.int64]:
    """The frames nearest to 0, 1/fps, 2/fps ...; each once, so that a rate above the clip's takes all.

    Nearest, not the one on screen: webm rounds times to milliseconds, up as well as down.
    """
    if fps is None:
        return np.arange(len(seconds))
    if fps <= 0:
        raise ValueError(f"fps={fps} must be above 0")
    return np.unique(nearest_to_times(seconds, np.arange(int(seconds[-1] * fps + LATE) + 1) / fps))
