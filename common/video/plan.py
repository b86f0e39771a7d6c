"""How many frames of a video a model is shown, and which: known before anything is decoded."""

from dataclasses import dataclass
from typing import Protocol

from common.video import images
from common.video.clip import Source, VideoInfo
from common.video.decode import probe
from common.video.sample import Frames, at_fps, uniform


class FramePlan(Protocol):
    """A rule that chooses frames."""

    @property
    def most(self) -> int:
        """The most frames that it shows of any video."""

    def count(self, source: Source, *, backend: str) -> int:
        """How many frames of a source are shown, found out at the least cost."""

    def choose(self, info: VideoInfo, count: int) -> Frames:
        """Their numbers, ascending: int64 (count,)."""


@dataclass(frozen=True, kw_only=True)
class UniformFrames:
    """`frames` frames at equal distance, the ends included; of images that are fewer, all.

    A video file with fewer frames is an error: nothing is repeated to fill them up.
    """

    frames: int

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames={self.frames} of data.*.plan: at least one frame is seen")

    @property
    def most(self) -> int:
        """All of them."""
        return self.frames

    def count(self, source: Source, *, backend: str) -> int:
        """Looks at images only; a video file has to have `frames`."""
        return min(self.frames, images.probe(source).num_frames) if images.is_images(source) else self.frames

    def choose(self, info: VideoInfo, count: int) -> Frames:
        """The rule of `common.video.sample.uniform`."""
        return uniform(info.num_frames, count)


@dataclass(frozen=True, kw_only=True)
class FramesPerSecond:
    """The frames on screen every 1/fps seconds, at most `max_frames`, then at equal distance."""

    fps: float
    max_frames: int

    def __post_init__(self) -> None:
        if self.fps <= 0 or self.max_frames < 1:
            raise ValueError(f"fps={self.fps}, max_frames={self.max_frames} of data.*.plan: both must be above 0")

    @property
    def most(self) -> int:
        """Of a long video."""
        return self.max_frames

    def count(self, source: Source, *, backend: str) -> int:
        """Reads the times of the packets, a few milliseconds a file."""
        return len(self._frames(probe(source, backend=backend)))

    def choose(self, info: VideoInfo, count: int) -> Frames:
        """The rule of `common.video.sample.at_fps`."""
        frames = self._frames(info)
        if len(frames) != count:
            raise ValueError(f"{count} frames were counted, now there are {len(frames)}: the file has changed since")
        return frames

    def _frames(self, info: VideoInfo) -> Frames:
        return at_fps(info.seconds, self.fps, self.max_frames)
