"""Writes frames as an H.264 file: the one encoder of the repository."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from common.files import atomic_write_bytes

MAX_CRF = 51  # x264's worst quality for 8-bit video


def encode_h264(frames: NDArray[np.uint8], *, fps: float = 8.0, crf: int = 10) -> bytes:
    """Encodes frames as H.264 (yuv420p) in an MP4 container.

    One thread and no date in the header: the same frames give the same bytes on the same build of x264.

    Args:
        frames: RGB, uint8 (T, H, W, 3), T >= 1, H and W even (4:2:0 chroma halves both).
        fps: frames a second, > 0.
        crf: x264's constant rate factor, 0 (lossless) to 51 (worst).

    Raises:
        ValueError: the frames are not of this shape or type, or `fps` or `crf` is out of range.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be uint8 (T, H, W, 3) with T >= 1, not {frames.dtype} {frames.shape}")
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"H.264 with 4:2:0 chroma needs an even height and width, not {height}x{width}")
    if fps <= 0 or not 0 <= crf <= MAX_CRF:
        raise ValueError(f"fps must be positive and crf 0..{MAX_CRF}, not fps={fps}, crf={crf}")
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # No slower preset: with look-ahead and B-frames x264 now and then gives other bytes, even on one thread.
        stream.options = {"preset": "ultrafast", "crf": str(crf), "threads": "1"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def write_h264(path: Path, frames: NDArray[np.uint8], *, fps: float = 8.0, crf: int = 10) -> None:
    """`encode_h264` into a file that is whole or absent. Arguments and errors are those of `encode_h264`."""
    atomic_write_bytes(path, encode_h264(frames, fps=fps, crf=crf))
