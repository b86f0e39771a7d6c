"""What a user asks to be rebuilt: a picture or a clip, a list of them, or the first rows of a set."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.files import read_jsonl
from common.types import Build, Pick
from projects.genhancer.batch import Batch, Sample
from projects.genhancer.clip_media import VideoFiles
from projects.genhancer.data import Images


class GivenFiles(VideoFiles):
    """Pictures and clips that are named one by one."""

    def __init__(self, *, files: Mapping[str, Path], fps: float | None, backend: str) -> None:
        """
        Args:
            files: by name; an image is a clip of one frame.
            fps: frames a second among which frames are chosen; None for all.
            backend: video reader.
        """
        self.folder, self.fps, self.backend = Path(), fps, backend
        self.rows = [{"id": name, "video": str(path)} for name, path in files.items()]


class Requests(Dataset[Sample]):
    """Rows of `generate`: each is rebuilt from what the tower sees of it."""

    def __init__(
        self, *, request: Mapping[str, Any], rows: Build[Images], fps: float | None = None, backend: str = "pyav"
    ) -> None:
        """
        Args:
            request: `video` (a picture, or a clip where the rows are clips), or `file` (JSON or JSON lines of
                {"video", "id"}, relative to `media` or to the folder of the file), or `count` rows of the set.
            rows: recipe of a set, whose sizes, crop and sampler what is given is treated by.
            fps: of given clips: frames a second among which frames are chosen; None for all.
            backend: video reader.

        Raises:
            ValueError: the request is not of this form.
        """
        files = _files(request)
        if files is None:
            self.rows = rows(count=request["count"])
        else:
            given = GivenFiles(files=files, fps=fps, backend=backend)
            self.rows = rows(media=lambda: given, count=None)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, pick: Pick) -> Sample:
        return self.rows[pick]

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """All are alike."""
        return None

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """Each counts once."""
        return None

    @property
    def fingerprint(self) -> str:
        """Changes when the rows do."""
        return self.rows.fingerprint

    def name(self, number: int) -> str:
        """Of a row."""
        return self.rows.name(number)

    def collate(self, samples: list[Sample]) -> Batch:
        """Rows of one batch."""
        return self.rows.collate(samples)


def _files(request: Mapping[str, Any]) -> dict[str, Path] | None:
    """Files that are asked for, by name; None where rows of the set are."""
    video, file = request["video"], request["file"]
    if request["prompt"] is not None:
        raise ValueError("request.prompt: nothing is told in words here; give a picture or a clip by request.video")
    if video is not None and file is not None:
        raise ValueError("request.video is one picture or clip, request.file lists some; give one of them")
    if video is not None:
        return {Path(str(video)).name: Path(str(video))}
    if file is None:
        return None
    path = Path(file)
    try:
        rows: Any = read_jsonl(path) if path.suffix == ".jsonl" else json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); write [{{'video': ...}}, ...]") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row.get("video") for row in rows):
        raise ValueError(f"{path}: a list of {{'video': ...}}, each a picture or a clip")
    media = path.parent if request["media"] is None else Path(request["media"])
    files = {str(row.get("id", row["video"])): media / row["video"] for row in rows}
    if len(files) < len(rows):
        raise ValueError(f"{path}: two rows have one id; give each its own")
    return files
