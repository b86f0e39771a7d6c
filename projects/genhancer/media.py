"""What a data set looks at, and pictures: folders of images and tars of images.

A row is a clip: F frames with their times; a picture is a clip of one frame at time 0. Pixels are handed over as they
are stored, uint8 RGB; only an encoder normalises them.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from common.data.tar import TarError, TarSamples, find_tars
from common.video import images
from common.video.decode import read
from projects.genhancer.sampling import Seconds

Choose = Callable[[Seconds], Sequence[int]]
PICTURES = ("jpg", "jpeg", "png", "webp")  # parts of a sample that are one


class Shown(NamedTuple):
    """Frames of a clip: uint8 (T, H, W, 3), and the times of all its frames, float64 (F,)."""

    frames: NDArray[np.uint8]
    seconds: Seconds


class Media(Protocol):
    """Rows that can be looked at, by number."""

    times_at_hand: bool  # whether `seconds` costs nothing

    def __len__(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """Changes when the rows do."""

    def name(self, number: int) -> str:
        """Of a row, unique."""

    def label(self, number: int) -> str | None:
        """What the row shows, where that is known."""

    def seconds(self, number: int) -> Seconds:
        """Times of the frames of a row, the first 0."""

    def show(self, number: int, choose: Choose) -> Shown:
        """The frames of a row that `choose` picks by their times."""


class ImageFolder:
    """Image files below a folder, each a row."""

    times_at_hand = True

    def __init__(self, *, folder: str) -> None:
        """
        Args:
            folder: searched with all that lie in it; hidden files do not count.

        Raises:
            ValueError: it holds no images.
        """
        self.folder = Path(folder)
        self.files = files_below(self.folder, images.SUFFIXES)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def fingerprint(self) -> str:
        sizes = [[file, (self.folder / file).stat().st_size] for file in self.files]
        return hash_of(sizes)

    def name(self, number: int) -> str:
        return self.files[number]

    def label(self, number: int) -> str | None:
        return None

    def seconds(self, number: int) -> Seconds:
        return np.zeros(1)

    def show(self, number: int, choose: Choose) -> Shown:
        frames = read(self.folder / self.files[number], [0]).frames
        return Shown(frames[list(choose(np.zeros(1)))], np.zeros(1))


class ImageTars:
    """Pictures in tars, in the layout of img2dataset and CC3M: `<key>.jpg` beside `<key>.txt`, or without."""

    times_at_hand = True

    def __init__(self, *, folder: str) -> None:
        """
        Args:
            folder: of the *.tar.

        Raises:
            TarError: a tar cannot be read.
        """
        self.samples = TarSamples(find_tars(Path(folder)))

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def fingerprint(self) -> str:
        return self.samples.fingerprint

    def name(self, number: int) -> str:
        return f"{self.samples.tar(number).stem}/{self.samples.key(number)}"

    def label(self, number: int) -> str | None:
        parts = self.samples.parts(number)
        return self.samples.read(number, "txt").decode().strip() if "txt" in parts else None

    def seconds(self, number: int) -> Seconds:
        return np.zeros(1)

    def show(self, number: int, choose: Choose) -> Shown:
        found = [part for part in self.samples.parts(number) if part in PICTURES]
        if len(found) != 1:
            raise TarError(
                f"{self.samples.tar(number)}: sample {self.samples.key(number)} has {found or 'none'} of "
                f"{', '.join(PICTURES)}, and should have one; clips are read with ClipTars"
            )
        frame = decoded(self.samples, number, found[0])
        return Shown(frame[None][list(choose(np.zeros(1)))], np.zeros(1))


def decoded(samples: TarSamples, number: int, part: str) -> NDArray[np.uint8]:
    """A picture of a sample: uint8 (H, W, 3)."""
    name = Path(f"{samples.tar(number)}:{samples.key(number)}.{part}")
    return images.decode(name, samples.read(number, part))


def files_below(folder: Path, suffixes: frozenset[str]) -> list[str]:
    """Paths of the files of some kinds, relative to the folder, by name; hidden ones do not count.

    Raises:
        ValueError: there is none.
    """
    found = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    shown = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if not shown:
        raise ValueError(f"{folder} holds no files of the kinds {', '.join(sorted(suffixes))}")
    return shown


def hash_of(content: Any) -> str:
    """Of what can be written as JSON."""
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
