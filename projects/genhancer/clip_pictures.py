"""One clip as pictures: which frames are kept, how they are resized, and what is noted of them."""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.video.clip import VideoInfo, VideoReadError
from common.video.decode import read
from common.video.sample import uniform
from common.video.transform import center_crop, resize, resize_short_side
from projects.genhancer.clip_media import at_rate
from projects.genhancer.clip_sources import SourceClip
from projects.genhancer.samplers import Sampler, View
from projects.genhancer.sampling import Seconds

Crop: TypeAlias = Literal["keep", "centre", "squash"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """How frames are taken and written.

    Attributes:
        fps: frames a second, by presentation time; None for all.
        max_frames: of a clip; of more, so many at equal distance, ends included.
        min_change: a frame is kept only if it differs from the one kept before it by more than this, the mean over its
            pixels in grey levels: a target that equals a frame that is shown would be no task. None keeps all.
        sampler: only frames that it may choose; None keeps all.
        size: pixels of the short side, at most; nothing is enlarged. None keeps the size.
        crop: "keep" the aspect ratio, its "centre" square, or "squash" to a square.
        quality: of the JPEG files, 1..95; chroma is not subsampled.
        backend: video reader.
    """

    fps: float | None
    max_frames: int | None
    min_change: float | None
    sampler: Sampler | None
    size: int | None
    crop: Crop
    quality: int
    backend: str

    def __post_init__(self) -> None:
        numbers = [number for number in (self.fps, self.max_frames, self.size) if number is not None]
        if self.crop not in get_args(Crop) or not 1 <= self.quality <= 95 or any(number <= 0 for number in numbers):
            raise ValueError(
                f"task.crop={self.crop} task.quality={self.quality} task.fps={self.fps} "
                f"task.max_frames={self.max_frames} task.size={self.size}: crop is one of "
                f"{', '.join(get_args(Crop))}, quality 1..95, the others are above 0 or null"
            )

    def settings(self) -> dict[str, Any]:
        """As JSON."""
        plain = {key: value for key, value in vars(self).items() if key != "sampler"}
        return {**plain, "sampler": None if self.sampler is None else self.sampler.settings()}


class Made(NamedTuple):
    """The JPEG files of a clip in the order of time, and what is noted of it."""

    row: dict[str, Any]
    files: list[bytes]


def key_of(name: str) -> str:
    """The key of a clip in its tar: its name, where that has no dot or other sign that keys cannot have."""
    if re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", name):
        return name
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[-80:]
    return f"{plain}-{hashlib.blake2b(name.encode(), digest_size=6).hexdigest()}"


def take(clip: SourceClip, folder: Path, look: Look) -> Made | str:
    """The frames of a clip, or why there are none.

    Args:
        clip: of a source.
        folder: of its files.
        look: which frames, and how.
    """
    chosen: list[NDArray[np.int64]] = []

    def places(info: VideoInfo) -> NDArray[np.int64]:
        found = at_rate(info.seconds, look.fps)
        if look.max_frames is not None and len(found) > look.max_frames:
            found = found[uniform(len(found), look.max_frames)]
        chosen.append(found)
        return found

    try:
        read_clip = read(folder / clip.file, places, backend=look.backend)
    except VideoReadError as error:
        return error.reason
    if read_clip.bad_packets or read_clip.corrupt_frames:
        return f"damaged: {read_clip.bad_packets} bad packets, {read_clip.corrupt_frames} corrupt frames"
    frames = _fitted(read_clip.frames, look)
    kept = _changing(frames, look.min_change)
    kept = kept[_wanted(frames[kept], read_clip.seconds[kept], look.sampler)]
    if not len(kept):
        span = float(read_clip.seconds[-1] - read_clip.seconds[0])
        return f"{len(frames)} frames over {span:.2f} s, of which none is kept: no window, or nothing moves"
    row = {
        **asdict_of(clip),
        "key": key_of(clip.id),
        "seconds": read_clip.seconds[kept].tolist(),
        "numbers": chosen[0][kept].tolist(),
        "height": frames.shape[1],
        "width": frames.shape[2],
    }
    return Made(row, [_jpeg(frame, look.quality) for frame in frames[kept]])


def asdict_of(clip: SourceClip) -> dict[str, Any]:
    """What a source tells of a clip; the file under the name "source"."""
    told = clip._asdict()
    return {"id": told["id"], "split": told["split"], "label": clip.label, "caption": clip.caption, "source": clip.file}


def _fitted(frames: NDArray[np.uint8], look: Look) -> NDArray[np.uint8]:
    """All frames in one size, by one decision for the clip."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    side = short if look.size is None else min(look.size, short)
    if look.crop == "squash":
        return resize(frames, side, side)
    if side != short:
        frames = resize_short_side(frames, side)
    return center_crop(frames, side, side) if look.crop == "centre" else frames


def _changing(frames: NDArray[np.uint8], min_change: float | None) -> NDArray[np.int64]:
    """Numbers of the frames that differ from the last that was kept."""
    if min_change is None:
        return np.arange(len(frames))
    kept = [0]
    for number in range(1, len(frames)):
        change = np.abs(frames[number].astype(np.int16) - frames[kept[-1]]).mean()
        if change > min_change:
            kept.append(number)
    return np.array(kept)


def _wanted(frames: NDArray[np.uint8], seconds: Seconds, sampler: Sampler | None) -> NDArray[np.int64]:
    """Numbers of the frames that a sampler may choose."""
    if sampler is None:
        return np.arange(len(frames))
    views = [View(seconds, frames if sampler.needs_frames else None, progress) for progress in sampler.phases]
    choices = [choice for view in views for choice in sampler.candidates(view)]
    return np.array(sorted({number for choice in choices for number in (*choice.conditions, choice.target)}), np.int64)


def _jpeg(frame: NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
