"""The reading side of a set of edits: rows, and their frames as uint8 at the size of training."""

import hashlib
import json
from dataclasses import astuple
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.video.clip import VideoReadError
from common.video.transform import center_crop, resize, resize_short_side, to_channels_first
from projects.pix2pix_video.arrow import SetError, open_set, parts_of
from projects.pix2pix_video.pictures import read_rgb, stack
from projects.pix2pix_video.rows import EditRow

__all__ = ["Crop", "EditFrames", "EditRow", "FrameError", "SetError", "media_of"]

Crop: TypeAlias = Literal["squash", "centre"]
RECORD = "edits.json"
CHECK = "`python -m launchers.prepare task=edit_check` lists every such row"
Named: TypeAlias = tuple[Path, NDArray[np.uint8]]


class FrameError(ValueError):
    """A row of a set cannot be used as it is.

    Attributes:
        row: its id.
        file: the file, or the column.
        reason: what is wrong and what to do.
    """

    def __init__(self, row: str, file: str, reason: str) -> None:
        super().__init__(f"row {row}: {file}: {reason} ({CHECK})")
        self.row, self.file, self.reason = row, file, reason

    def __reduce__(self) -> tuple[type["FrameError"], tuple[str, str, str]]:
        return type(self), (self.row, self.file, self.reason)  # as a data loader's worker hands it over


def media_of(folder: Path, media: str | Path | None) -> Path:
    """Folder that the paths of a set are relative to: as told, else as the set says, else the set's own folder."""
    if media is not None:
        return Path(media)
    record = folder / RECORD
    return folder / json.loads(record.read_text())["media"] if record.is_file() else folder


class EditFrames:
    """One split of a set of edits.

    Attributes:
        rows: what each row says, without pixels.
    """

    def __init__(
        self,
        *,
        folder: str,
        split: str,
        media: str | None = None,
        size: int,
        history: int | None,
        crop: Crop = "squash",
    ) -> None:
        """Opens the split; reads no image.

        Args:
            folder: of the set.
            split: "train", "val" or "test".
            media: folder that its paths are relative to; None for the place where the set says that it lies, seen
                from the set, so that both can be moved together.
            size: side of the square frames in pixels.
            history: frames a row, as the model takes them; None takes what the set has.
            crop: "squash" resizes whatever the aspect ratio; "centre" resizes the shorter side, then takes the middle.

        Raises:
            SetError: no such set or split, an empty one, or one with another history.
            FrameError: a row without an instruction, or with another history than the rest.
        """
        if crop not in get_args(Crop) or size < 1:
            raise ValueError(f"crop={crop!r} size={size}: crop is one of {', '.join(get_args(Crop))}, size 1 or more")
        self.folder, self.split, self.size, self.crop = Path(folder), split, size, crop
        self.media = media_of(self.folder, media)
        splits = open_set(self.folder)
        if split not in splits:
            raise SetError(
                f"{folder} has no split {split}, it has {', '.join(splits)}; make it with task.merge=[{split}] and "
                "task.holdout, which hold rows of train out"
            )
        self.rows, self._images = parts_of(splits[split], split)
        self._check(history)

    def _check(self, wanted: int | None) -> None:
        if not self.rows:
            raise SetError(f"split {self.split} of {self.folder} has no rows; make the set anew")
        found = len(self.rows[0].history)
        history = found if wanted is None else wanted
        if found != history:
            raise SetError(
                f"{self.folder} has histories of {found} frames, and {history} are asked for; make a set with "
                f"`python -m launchers.prepare task=edit_frames task.history={history}`, or set the model's history"
            )
        for row in self.rows:
            if len(row.history) != history:
                raise FrameError(row.id, "input_frames", f"{len(row.history)} frames, not {history}; take the row out")
            if not row.instruction:
                raise FrameError(row.id, "edit_prompt", "is empty; write an instruction, or take the row out")

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits over the rows and the target images."""
        state = hashlib.blake2b(digest_size=16)
        for row, example in zip(self.rows, self._images, strict=True):
            state.update(json.dumps(astuple(row)).encode())
            state.update(hashlib.blake2b(self._embedded(row, example), digest_size=16).digest())
        return state.hexdigest()

    def pixels(self, number: int) -> Tensor:
        """uint8 (T + 1, 3, size, size), 0..255: the history, oldest first, then the target; one crop for all.

        Raises:
            FrameError: a frame is missing, damaged, of other channels than RGB, or of another size than the rest.
        """
        return self._shown(number, [*self._history(number), self._target(number)])

    def history_of(self, number: int) -> Tensor:
        """uint8 (T, 3, size, size): `pixels` without the target."""
        return self._shown(number, self._history(number))

    def target_of(self, number: int) -> Tensor:
        """uint8 (3, size, size): the last of `pixels`."""
        return self._shown(number, [self._target(number)])[0]

    def _history(self, number: int) -> list[Named]:
        row = self.rows[number]
        return [(self.media / file, self._read(row, self.media / file)) for file in row.history]

    def _target(self, number: int) -> Named:
        row = self.rows[number]
        name = Path(row.target or "edited_image")
        return name, self._read(row, name, self._embedded(row, self._images[number]))

    @staticmethod
    def _embedded(row: EditRow, example: dict[str, Any]) -> bytes:
        image = example["edited_image"]
        if image is None or image["bytes"] is None:
            raise FrameError(row.id, "edited_image", "the set does not hold the image itself; make it anew")
        return bytes(image["bytes"])

    def _read(self, row: EditRow, path: Path, data: bytes | None = None) -> NDArray[np.uint8]:
        try:
            return read_rgb(path, data)
        except VideoReadError as error:
            moved = "" if self.media.is_dir() else f", nor a folder {self.media}: say in media where the frames are now"
            raise FrameError(row.id, error.path, error.reason + moved) from error

    def _shown(self, number: int, frames: list[Named]) -> Tensor:
        try:
            clip = stack(frames)
        except VideoReadError as error:
            raise FrameError(self.rows[number].id, error.path, error.reason) from error
        return fitted(clip, size=self.size, crop=self.crop)


def fitted(frames: NDArray[np.uint8], *, size: int, crop: Crop) -> Tensor:
    """Frames of one clip as the model sees them, uint8 (T, 3, size, size); one crop for all.

    Args:
        frames: uint8 (T, H, W, 3).
        size: side of the square in pixels.
        crop: as for `EditFrames`.
    """
    if crop == "squash":
        return to_channels_first(resize(frames, size, size))
    return to_channels_first(center_crop(resize_short_side(frames, size), size, size))
