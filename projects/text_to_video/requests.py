"""What a user asks of the model: a caption, a file of captions, or captions of a set; with a first frame or without."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.files import read_jsonl
from common.types import Pick
from common.video.decode import read
from common.video.transform import center_crop, resize_short_side, to_channels_first
from projects.text_to_video.output import stem_of
from projects.text_to_video.told import told


class Asked(NamedTuple):
    """One caption.

    Attributes:
        id: its name.
        prompt: the caption.
        first: file of the first frame, or "".
        file: MP4 to write, or "" for files named after `id` in the run folder.
    """

    id: str
    prompt: str
    first: str = ""
    file: str = ""


class RequestBatch(NamedTuple):
    """B captions.

    Attributes:
        ids: their names.
        prompts: captions.
        first: first frames, uint8 (B, 3, H, W), 0..255; None where none are given.
        frames: F, how many to generate.
        shape: C, h, w of a latent.
        fps: of what is written.
        files: MP4 to write for each, "" for what the run folder has.
    """

    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    first: Tensor | None
    frames: int
    shape: tuple[int, ...]
    fps: float
    files: tuple[str, ...]


class Captions(Dataset[Asked]):
    """Captions as rows of `generate`."""

    def __init__(
        self,
        *,
        request: Mapping[str, Any],
        table: str,
        frames: int,
        fps: float,
        size: list[int],
        latent: list[int],
        objects: int | None = None,
        captions: str | None = None,
        keep_originals: bool = False,
    ) -> None:
        """
        Args:
            request: `prompt` (one caption) and `video` (an image or a video whose first frame is the clip's), or `file`
                (JSON or JSON lines of {"prompt"} and, if wanted, "id", "first", and "file", the MP4 to write), or
                `count` rows of `table`.
            table: JSON lines with `id` and `caption`, read where the request brings no caption.
            frames: F, how many to generate.
            fps: of what is written.
            size: H, W of the frames.
            latent: C, h, w of a latent.
            objects: of `table`, only captions of the built-in world that name so many objects.
            captions: folder of rewritten captions (`prepare task=recaption`), in place of those of `table`.
            keep_originals: whether rows of `table` without a rewritten caption keep their own.

        Raises:
            CaptionError: rows of `table` have no rewritten caption.
            ValueError: the request or its file is not of this form.
        """
        self.frames, self.fps, self.size, self.latent = frames, fps, (size[0], size[1]), tuple(latent)
        self.asked = _asked(request, Path(table), objects)
        if request["prompt"] is None and request["file"] is None:
            ids, prompts = [each.id for each in self.asked], [each.prompt for each in self.asked]
            new = told(ids, prompts, rewritten=captions, keep_originals=keep_originals, key="data.predict.captions")
            self.asked = [each._replace(prompt=prompt) for each, prompt in zip(self.asked, new, strict=True)]
        _refuse_twice(self.asked)
        firsts = {bool(each.first) for each in self.asked}
        if len(firsts) > 1:
            raise ValueError(f"{request['file']}: all captions have a first frame, or none; split the file")

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, pick: Pick) -> Asked:
        return self.asked[pick.row]

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
        """Changes when the captions do."""
        return hashlib.blake2b(json.dumps(self.asked).encode(), digest_size=16).hexdigest()

    def collate(self, samples: list[Asked]) -> RequestBatch:
        """Captions of one batch."""
        given = bool(samples[0].first)
        return RequestBatch(
            ids=tuple(each.id for each in samples),
            prompts=tuple(each.prompt for each in samples),
            first=torch.stack([self._first(each.first) for each in samples]) if given else None,
            frames=self.frames,
            shape=self.latent,
            fps=self.fps,
            files=tuple(each.file for each in samples),
        )

    def _first(self, path: str) -> Tensor:
        """uint8 (3, H, W): the shorter side resized, the middle taken."""
        frame = read(Path(path), [0]).frames
        return to_channels_first(center_crop(resize_short_side(frame, max(self.size)), *self.size))[0]


def _asked(request: Mapping[str, Any], table: Path, objects: int | None) -> list[Asked]:
    prompt, video, file = request["prompt"], request["video"], request["file"]
    if video is not None and prompt is None:
        raise ValueError("request.video is the first frame of a clip; say by request.prompt what it shows")
    if prompt is not None and file is not None:
        raise ValueError("request.prompt is one caption, request.file has captions of its own; give one of them")
    if prompt is not None:
        return [Asked("request", str(prompt), str(video or ""))]
    if file is None:
        rows = [row for row in read_jsonl(table) if objects in (None, row["caption"].count(" moves "))]
        return [Asked(str(row["id"]), str(row["caption"])) for row in rows[: request["count"]]]
    path = Path(file)
    content: Any = read_jsonl(path) if path.suffix == ".jsonl" else json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, list) or not all(isinstance(row, dict) and row.get("prompt") for row in content):
        raise ValueError(f"{path}: a list of {{'prompt': ...}}, each with a caption")
    if not content:
        raise ValueError(f"{path} asks for nothing (task=vbench_prompts writes such a file when all clips are there)")
    return [_row(row, number, path) for number, row in enumerate(content)]


def _row(row: Mapping[str, Any], number: int, path: Path) -> Asked:
    asked = Asked(
        str(row.get("id", number)), str(row["prompt"]), str(row.get("first") or ""), str(row.get("file") or "")
    )
    if asked.file and not asked.file.endswith(".mp4"):
        raise ValueError(f"{path} row {number + 1}: file={asked.file} is written as MP4; give it the suffix .mp4")
    return asked


def _refuse_twice(asked: list[Asked]) -> None:
    """Two clips with one file."""
    seen: dict[str, str] = {}
    for each in asked:
        file = each.file or stem_of(each.id)
        if file in seen:
            raise ValueError(f'"{seen[file]}" and "{each.id}" would both be written to {file}; give them other ids')
        seen[file] = each.id
