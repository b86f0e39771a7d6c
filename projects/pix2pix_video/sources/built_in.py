"""The built-in edits: one history of moving shapes with two instructions, and the frame that follows from each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.files import digest, read_jsonl
from projects.pix2pix_video.rows import EditRow
from projects.pix2pix_video.sources.extract import Look, Video, extract, file_of
from projects.pix2pix_video.sources.found import SPLITS, Found, Sample, Skipped, SourceError
from projects.pix2pix_video.sources.windows import Windows

FRAMES = "frames"  # folder of the histories' frames, beside the edits


class BuiltInEdits:
    """What `python -m launchers.prepare task=shapes 'task.parts=[edits]'` writes.

    The frames of each history are written once as png, for both of its rows.
    """

    def __init__(self, *, root: str, backend: str = "pyav") -> None:
        """Names the folder.

        Args:
            root: `task.root` of the command above.
            backend: video reader.
        """
        self.root, self.backend = Path(root), backend

    @property
    def media(self) -> Path:
        """The root: frames are written below it."""
        return self.root

    def identity(self) -> Mapping[str, Any]:
        """Digests of the tables, and the settings of the data set."""
        return {
            "source": "built_in",
            "edits": {split: digest(self._table(split)) for split in SPLITS},
            "shapes": self._manifest(),
        }

    def collect(self, windows: Windows, *, workers: int) -> Found:
        """Extracts the histories, then lists two rows for each.

        Raises:
            SourceError: the windows are not those that the data set was drawn with.
        """
        self._check(windows)
        tables = {split: read_jsonl(self._table(split)) for split in SPLITS}
        clips = list(dict.fromkeys(row["history"] for rows in tables.values() for row in rows))
        counts = dict(zip(clips, self._frames(clips, workers), strict=True))
        found = Found(clips=len(clips))
        lost = set()
        for split, rows in tables.items():
            for row in rows:
                clip, count = row["history"], counts[row["history"]]
                if isinstance(count, int):
                    found.samples.append(Sample(_row(row, windows, count), split, clip))
                elif clip not in lost:
                    found.skipped.append(Skipped(clip, split, clip, count))
                    lost.add(clip)
        return found

    def _frames(self, clips: list[str], workers: int) -> list[int | str]:
        videos = [Video(_name(clip), self.root / clip) for clip in clips]
        settings = self._manifest()
        folder = self.root / FRAMES
        counts = extract(
            videos, folder=folder, look=Look(backend=self.backend), source={"shapes": settings}, workers=workers
        )
        length = settings["history"]
        return [
            f"has {count} frames, not {length}" if isinstance(count, int) and count != length else count
            for count in counts
        ]

    def _check(self, windows: Windows) -> None:
        drawn = self._manifest()
        if windows.gap != drawn["lead"] or windows.step is not None or windows.anchor != "end":
            raise SourceError(
                f"the targets of {self.root} lie {drawn['lead']} frames after their history, one a history: set "
                f"task.gap={drawn['lead']} task.step=null task.anchor=end, or draw the edits anew with task.lead"
            )
        if windows.span - windows.gap > drawn["history"]:
            raise SourceError(
                f"{windows.history} frames at stride {windows.stride} are asked of histories of {drawn['history']} in "
                f"{self.root}; lower task.history or task.stride"
            )

    def _manifest(self) -> dict[str, Any]:
        path = self.root / "manifest.json"
        if not path.is_file():
            raise SourceError(
                f"{path} is not there; run `python -m launchers.prepare task=shapes 'task.parts=[edits]'`"
            )
        return dict(json.loads(path.read_text())["settings"])

    def _table(self, split: str) -> Path:
        path = self.root / "edits" / f"{split}.jsonl"
        if not path.is_file():
            raise SourceError(
                f"{path} is not there; run `python -m launchers.prepare task=shapes 'task.parts=[edits]'` with "
                f"task.root={self.root}"
            )
        return path


def _name(clip: str) -> str:
    """edits/train/000001.mp4 to train/000001."""
    return str(Path(clip).with_suffix("").relative_to("edits"))


def _row(row: Mapping[str, Any], windows: Windows, frames: int) -> EditRow:
    # The window lies at the end of the history: its frames are numbered from there, the target is a file of its own.
    length = windows.span - windows.gap
    return EditRow(
        id=row["id"],
        history=tuple(
            f"{FRAMES}/{file_of(_name(row['history']), number, 'png')}"
            for number in range(frames - length, frames, windows.stride)
        ),
        target=row["target"],
        instruction=row["instruction"],
        task=row["kind"],
        pair=_name(row["history"]),
        novel=row["novel"],
    )
