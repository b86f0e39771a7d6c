"""What a user asks of the model: an instruction for a video, a file of them, or rows of a set."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.files import read_jsonl
from common.types import Pick
from common.video.clip import Source, VideoInfo, VideoReadError
from common.video.decode import read
from projects.pix2pix_video.frames import Crop, EditFrames, FrameError, fitted


@dataclass(frozen=True, kw_only=True)
class Request:
    """One video and one instruction, a file of such pairs, or the first rows of a set.

    Attributes:
        video: a video file, a folder of frames or a list of them, oldest first; the last T are the history.
        prompt: the instruction.
        file: JSON or JSON lines of {"video", "prompt"} and, if wanted, "id"; all are answered.
        media: folder that the videos of `file` are relative to; None: the folder of the file.
        count: how many rows of the set are answered, where neither of the above is given; None: all.
    """

    video: str | list[str] | None = None
    prompt: str | None = None
    file: str | None = None
    media: str | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.video is not None and self.file is not None:
            raise ValueError("request.video is one video, request.file has videos of its own; give one of them")
        if (self.video is None) != (self.prompt is None):
            raise ValueError("request.video and request.prompt belong together: the frames, and what is to happen next")

    def edits(self) -> list["Edit"]:
        """Pairs of its own; none where rows of the set are asked for.

        Raises:
            ValueError: the file is not of this form; names the row.
        """
        if self.video is not None:
            return [_edit({"video": self.video, "prompt": self.prompt}, Path(), "request", name="request")]
        if self.file is None:
            return []
        path = Path(self.file)
        rows: Any = read_jsonl(path) if path.suffix == ".jsonl" else _json(path)
        if not isinstance(rows, list) or not rows:
            raise ValueError(f"{path}: no list of rows; write [{{'video': ..., 'prompt': ...}}, ...]")
        media = path.parent if self.media is None else Path(self.media)
        return [_edit(row, media, f"{path} row {number}", name=str(number)) for number, row in enumerate(rows)]


@dataclass(frozen=True)
class Edit:
    """One instruction for one video."""

    id: str
    video: Source
    prompt: str


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); write [{{'video': ..., 'prompt': ...}}, ...]") from error


def _edit(row: Any, media: Path, where: str, *, name: str) -> Edit:
    video: Any
    video, prompt = (row.get("video"), row.get("prompt")) if isinstance(row, Mapping) else (None, None)
    files: Any = [video] if isinstance(video, str) else video
    named = isinstance(files, list) and bool(files) and all(isinstance(each, str) for each in files)
    if not named or not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{where}: needs `video`, a file, folder or list of frames, and `prompt`, an instruction")
    places = [media / each for each in files]
    return Edit(str(row.get("id", name)), places[0] if isinstance(video, str) else places, prompt)


class Unreadable(NamedTuple):
    """A request whose frames cannot be read."""

    id: str
    prompt: str
    reason: str


class Asked(NamedTuple):
    """One request.

    Attributes:
        number: of the request.
        id: its name.
        prompt: the instruction.
        history: uint8 (T, 3, H, W), 0..255, oldest first.
    """

    number: int
    id: str
    prompt: str
    history: Tensor


class RequestBatch(NamedTuple):
    """B requests, and those beside them that cannot be read.

    Attributes:
        numbers: of the requests.
        ids: their names.
        prompts: instructions.
        history: uint8 (B, T, 3, H, W), 0..255; None where no request of the batch can be read.
        frames: how many frames to predict for each.
        fps: frames a second of what is written.
        unreadable: with the reason.
    """

    numbers: tuple[int, ...]
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    history: Tensor | None
    frames: int
    fps: float
    unreadable: tuple[Unreadable, ...]


class EditRequests(Dataset[Asked | Unreadable]):
    """Requests as rows of `generate`."""

    def __init__(
        self,
        *,
        request: Mapping[str, Any],
        folder: str,
        split: str,
        media: str | None = None,
        size: int,
        crop: Crop,
        history: int,
        stride: int = 1,
        frames: int = 1,
        fps: float = 12.0,
        backend: str = "pyav",
    ) -> None:
        """
        Args:
            request: arguments of `Request`.
            folder: of the set whose rows are answered where the request brings no video; only then it is opened.
            split: of that set.
            media: folder of its frames; None for where the set says.
            size: side of the frames in pixels, as in training.
            crop: "squash" or "centre", as in training.
            history: T.
            stride: frames of a video from one frame of the history to the next.
            frames: how many to predict, each from the T before it.
            fps: frames a second of what is written.
            backend: video reader.

        Raises:
            ValueError: the request is not of the form that `Request` describes, or a number is out of range.
        """
        if stride < 1 or frames < 1 or fps <= 0:
            raise ValueError(
                f"data.predict.stride={stride}, .frames={frames}, .fps={fps}: at least 1, at least 1, positive"
            )
        self.request = Request(**request)
        self.size, self.crop, self.history, self.stride = size, crop, history, stride
        self.frames, self.fps, self.backend = frames, fps, backend
        self.edits = self.request.edits()
        self.set = None
        if not self.edits:
            self.set = EditFrames(folder=folder, split=split, media=media, size=size, history=history, crop=crop)

    def __len__(self) -> int:
        if self.set is None:
            return len(self.edits)
        return len(self.set) if self.request.count is None else min(self.request.count, len(self.set))

    def __getitem__(self, pick: Pick) -> Asked | Unreadable:
        number = pick.row
        if self.set is not None:
            row = self.set.rows[number]
            edit = Edit(row.id, "", row.instruction)
        else:
            edit = self.edits[number]
        try:
            history = self._read(edit.video) if self.set is None else self.set.history_of(number)
        except (VideoReadError, FrameError) as error:
            if self.request.video is not None:  # a single request: nothing else is to be answered
                raise
            return Unreadable(edit.id, edit.prompt, str(error))
        return Asked(number, edit.id, edit.prompt, history)

    def _read(self, source: Source) -> Tensor:
        """The last T frames, `stride` apart, uint8 (T, 3, size, size)."""

        def newest(info: VideoInfo) -> NDArray[np.int64]:
            first = info.num_frames - 1 - self.stride * (self.history - 1)
            if first < 0:
                raise VideoReadError(
                    source,
                    f"has {info.num_frames} frames, a history of {self.history} with a stride of {self.stride} needs "
                    f"{info.num_frames - first}; give a longer video, or a smaller data.predict.stride",
                )
            return np.arange(first, info.num_frames, self.stride)

        return fitted(read(source, newest, backend=self.backend).frames, size=self.size, crop=self.crop)

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
        """Changes when the requests do."""
        if self.set is not None:
            return f"{self.set.fingerprint}/{len(self)}"
        return hashlib.blake2b(repr(self.edits).encode(), digest_size=16).hexdigest()

    def collate(self, samples: Sequence[Asked | Unreadable]) -> RequestBatch:
        """Requests of one batch."""
        asked = [each for each in samples if isinstance(each, Asked)]
        return RequestBatch(
            numbers=tuple(each.number for each in asked),
            ids=tuple(each.id for each in asked),
            prompts=tuple(each.prompt for each in asked),
            history=torch.stack([each.history for each in asked]) if asked else None,
            frames=self.frames,
            fps=self.fps,
            unreadable=tuple(each for each in samples if isinstance(each, Unreadable)),
        )
