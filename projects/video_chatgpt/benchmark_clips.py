"""Clips of a realistic size and bit rate to measure on, where there are none of one's own."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.made import make_folder
from common.progress import track
from common.video.write import write_h264

MARGIN = 100  # pixels by which the texture is larger than the frame on each side
PERIODS = (251, 345)  # frames in which the window goes up and down, left and right
CRF = 36  # about 0.9 Mbit/s at 640x360 and 30 frames/s, as common video sites give that size
CONTRAST = 50  # standard deviation of the texture, of 255
DISC = 30  # radius, pixels


@dataclass(frozen=True, kw_only=True)
class MovingClips:
    """H.264 clips of a texture with a 1/f spectrum that a window moves over, and a disc that crosses it.

    Attributes:
        seconds: length of a clip.
        height: of its frames, pixels, even.
        width: of its frames, pixels, even.
        fps: frames a second.
        seed: of the textures and paths.
    """

    seconds: float
    height: int
    width: int
    fps: float
    seed: int

    def make(self, root: Path, *, count: int) -> Path:
        """Writes `count` clips into a folder below `root`, unless they are there.

        Returns:
            The folder.
        """
        name = f"{count}_of_{self.seconds:g}s_{self.width}x{self.height}_{self.fps:g}fps_seed{self.seed}"
        make_folder(root / name, source={"count": count, **asdict(self)}, make=lambda folder: self._draw(folder, count))
        return root / name

    def _draw(self, folder: Path, count: int) -> dict[str, int]:
        for number in track(range(count), description="clips to measure on"):
            write_h264(folder / f"{number:03d}.mp4", self._frames(number), fps=self.fps, crf=CRF)
        return {"clips": count}

    def _frames(self, number: int) -> NDArray[np.uint8]:
        """uint8 (T, H, W, 3)."""
        rng = np.random.default_rng([self.seed, number])
        texture = _texture(rng, self.height + 2 * MARGIN, self.width + 2 * MARGIN)
        colour, phases = rng.integers(0, 256, 3, dtype=np.uint8), rng.uniform(0, 2 * np.pi, 2)
        rows, columns = np.ogrid[: self.height, : self.width]
        frames = np.empty((max(1, round(self.seconds * self.fps)), self.height, self.width, 3), np.uint8)
        for time, frame in enumerate(frames):
            swing = np.sin(phases + 2 * np.pi * time / np.array(PERIODS))
            top, left = np.round(MARGIN * (1 + swing)).astype(int)
            frame[:] = texture[top : top + self.height, left : left + self.width]
            y, x = 4 * time % self.height, 3 * time % self.width
            frame[(rows - y) ** 2 + (columns - x) ** 2 <= DISC**2] = colour
        return frames


def _texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Colour noise whose amplitude falls with frequency as that of photographs does, uint8 (H, W, 3)."""
    spectrum = np.fft.rfft2(rng.standard_normal((3, height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    noise = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / max(height, width)), s=(height, width))
    scaled = 128 + CONTRAST * (noise - noise.mean()) / noise.std()
    return np.ascontiguousarray(scaled.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
