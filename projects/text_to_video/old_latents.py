"""Files of latents as earlier code wrote them, one a clip: torch.save of {latent, caption, length}.

`latent` is float32 (F, C, h, w), the means of the frames; of a shorter clip, frames from `length` on are zeros. The
files have no extension: a counter is their name. They are read without running what a pickle could run.
"""

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.files import digest
from projects.text_to_video.buckets import Bucket
from projects.text_to_video.clip_survey import Files, Seen, bytes_of
from projects.text_to_video.latent_plan import Planned

KEYS = ("latent", "caption", "length")


class OldLatentError(ValueError):
    """A file is none of these, or not whole: names the file and what is wrong."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


class OldClip(NamedTuple):
    """What a file holds: `latent` cut to its true length, (F', C, h, w)."""

    latent: Tensor
    caption: str


def files_in(folder: Path) -> list[Path]:
    """The files of a folder by number; lists, logs and whatever else has an extension are left alone.

    Raises:
        FileNotFoundError: there are none.
    """
    found = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_file()] if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(f"{folder} holds no files of latents, which are named by a number, without extension")
    return sorted(found, key=lambda path: (int(path.name), path.name))


def read_old(path: Path, *, shape: Sequence[int]) -> OldClip:
    """Reads one file; its numbers stay on disk until they are used.

    Args:
        path: of the file.
        shape: F, C, h, w that it has to have.

    Raises:
        OldLatentError: it is damaged, holds something else, or has another shape than that.
    """
    content = _load(path)
    if not isinstance(content, dict) or any(key not in content for key in KEYS):
        raise OldLatentError(path, f"holds no {', '.join(KEYS)}")
    latent, caption, length = (content[key] for key in KEYS)
    if not isinstance(latent, Tensor) or latent.shape != torch.Size(shape) or not latent.is_floating_point():
        found = tuple(latent.shape) if isinstance(latent, Tensor) else type(latent).__name__
        raise OldLatentError(path, f"its latent is {found}, and {tuple(shape)} is expected; see task.size, task.frames")
    if not isinstance(caption, str) or not caption:
        raise OldLatentError(path, "has no caption")
    number = length.item() if isinstance(length, Tensor) and length.numel() == 1 else length
    if not isinstance(number, int) or not 1 <= number <= len(latent):
        raise OldLatentError(path, f"length={length!r} is none of 1 .. {len(latent)}")
    return OldClip(latent[:number], caption)


def _load(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise OldLatentError(
            path, f"cannot be read ({str(error).splitlines()[0] if str(error) else error!r})"
        ) from error


class OldFiles(Files):
    """Files to look at: captions and lengths, without the numbers."""

    def __init__(self, paths: Sequence[Path], bucket: Bucket, shape: Sequence[int]) -> None:
        super().__init__([path.name for path in paths], paths, {"shape": [*shape]})
        self.bucket, self.shape = bucket, shape

    def look(self, name: str, path: Path) -> Seen:
        """Caption, length, identity."""
        try:
            clip = read_old(path, shape=self.shape)
        except OldLatentError as error:
            return Seen(name, bytes_of(path), reason=error.reason)
        height, width = self.bucket.height, self.bucket.width
        return Seen(name, bytes_of(path), "", digest(path), len(clip.latent), height, width, {}, clip.caption)


class OldClips(Dataset[Tensor | str]):
    """Latents of each clip as they are stored from now on, or the reason why they cannot be."""

    def __init__(self, clips: Sequence[Planned], *, shape: Sequence[int], scale: float, dtype: str) -> None:
        """
        Args:
            clips: to read.
            shape: F, C, h, w of the files.
            scale: what the numbers are divided by.
            dtype: to round to.
        """
        self.clips, self.shape, self.scale, self.dtype = clips, shape, scale, dtype

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Tensor | str:
        clip = self.clips[index]
        try:
            latent = read_old(clip.path, shape=self.shape).latent
        except OldLatentError as error:
            return error.reason
        stored = (latent.float() / self.scale).to(getattr(torch, self.dtype))
        return stored if stored.isfinite().all() else f"holds numbers that are not finite in {self.dtype}"
