"""Frames of videos as image files: one folder a video, whole or absent, so that a killed run goes on where it was."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from PIL import Image

from common.files import atomic_folder, atomic_write_text
from common.processes import each
from common.video.decode import VideoInfo, VideoReadError, read
from common.video.sample import nearest_to_times
from projects.pix2pix_video.sources.windows import Windows

Suffix: TypeAlias = Literal["png", "jpg"]
SETTINGS, CLIP = "settings.json", "clip.json"


class Video(NamedTuple):
    """A video and the name of its folder of frames."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Look:
    """How frames are taken and written.

    Attributes:
        windows: only frames that a window needs; None for all.
        fps: rate at which frames are counted; None for each frame of the video.
        suffix: "png" without loss, or "jpg".
        quality: of jpg, 1..95; chroma is not subsampled.
        backend: video reader.
    """

    windows: Windows | None = None
    fps: float | None = None
    suffix: Suffix = "png"
    quality: int = 95
    backend: str = "pyav"

    def __post_init__(self) -> None:
        if (
            self.suffix not in get_args(Suffix)
            or not 1 <= self.quality <= 95
            or (self.fps is not None and self.fps <= 0)
        ):
            raise ValueError(
                f"suffix={self.suffix} quality={self.quality} fps={self.fps}: suffix is png or jpg, quality 1..95, "
                "fps above 0"
            )

    def settings(self) -> dict[str, Any]:
        """As JSON."""
        windows = None if self.windows is None else self.windows.settings()
        return {"windows": windows, "fps": self.fps, "suffix": self.suffix, "quality": self.quality}


def file_of(name: str, number: int, suffix: str) -> str:
    """Path of a frame, relative to the folder of all frames."""
    return f"{name}/{number:04d}.{suffix}"


def extract(
    videos: Sequence[Video], *, folder: Path, look: Look, source: Mapping[str, Any], workers: int
) -> list[int | str]:
    """Writes the frames of the videos that are not there yet.

    Args:
        videos: what to read.
        folder: of all frames.
        look: which frames, and how.
        source: what else the frames depend on, as JSON; another look or source in the same folder is an error.
        workers: processes.

    Returns:
        For each video its number of frames at the rate, or why it gives none.

    Raises:
        ValueError: the folder holds frames made otherwise.
    """
    wanted = json.loads(json.dumps({**look.settings(), "source": source}))
    record = folder / SETTINGS
    if record.is_file() and json.loads(record.read_text()) != wanted:
        raise ValueError(f"{folder} holds frames that were taken otherwise; remove it, or choose another folder")
    atomic_write_text(record, json.dumps(wanted, indent=1) + "\n")
    for leftover in folder.rglob(".*.part"):  # of a run that was killed
        shutil.rmtree(leftover)
    missing = [video for video in videos if not _is_made(folder / video.name, video.path)]
    jobs = [(video, folder, look) for video in missing]
    made = dict(zip(missing, each(_extract, jobs, workers=workers, description="frames of videos"), strict=True))
    return [made[video] if video in made else _count(folder / video.name) for video in videos]


def _is_made(folder: Path, video: Path) -> bool:
    """Whether the frames of a video are there; those of a file that was replaced since are removed."""
    if not (folder / CLIP).is_file():
        return False
    same = video.is_file() and json.loads((folder / CLIP).read_text())["bytes"] == video.stat().st_size
    if not same:
        shutil.rmtree(folder)
    return same


def _count(folder: Path) -> int:
    return int(json.loads((folder / CLIP).read_text())["frames"])


def _extract(job: tuple[Video, Path, Look]) -> int | str:
    video, folder, look = job
    counted: list[list[int]] = []

    def choose(info: VideoInfo) -> list[int]:
        places = list(range(info.num_frames)) if look.fps is None else _at_rate(video.path, info, look.fps)
        counted.append(places)
        return [places[number] for number in _numbers(video.path, len(places), look.windows)]

    try:
        clip = read(video.path, choose, backend=look.backend)
    except VideoReadError as error:
        return error.reason
    if clip.bad_packets or clip.corrupt_frames:
        return f"damaged: {clip.bad_packets} bad packets, {clip.corrupt_frames} corrupt frames"
    (places,) = counted
    numbers = _numbers(video.path, len(places), look.windows)
    with atomic_folder(folder / video.name) as temporary:
        for number, frame in zip(numbers, clip.frames, strict=True):
            options: dict[str, Any] = {} if look.suffix == "png" else {"quality": look.quality, "subsampling": 0}
            Image.fromarray(frame).save(temporary / file_of(".", number, look.suffix), **options)
        record = {"frames": len(places), "bytes": video.path.stat().st_size}
        (temporary / CLIP).write_text(json.dumps(record) + "\n")
    return len(places)


def _at_rate(path: Path, info: VideoInfo, fps: float) -> list[int]:
    """The frame nearest to each of 0, 1/fps, 2/fps ...: webm rounds times to milliseconds, up as well as down."""
    times = np.arange(int(info.seconds[-1] * fps + 0.5) + 1) / fps
    places = nearest_to_times(info.seconds, times)
    if (np.diff(places) < 1).any() or (np.abs(info.seconds[places] - times) > 0.5 / fps).any():
        raise VideoReadError(path, f"its frames ({info.fps:.2f} a second) lie too far apart for {fps:g} a second")
    return [int(place) for place in places]


def _numbers(path: Path, num_frames: int, windows: Windows | None) -> list[int]:
    """Frames to write, ascending."""
    if windows is None:
        return list(range(num_frames))
    found = windows.of(num_frames)
    if not found:
        raise VideoReadError(path, f"has {num_frames} frames, a window takes {windows.span}")
    return sorted({number for window in found for number in (*window.history, window.target)})
