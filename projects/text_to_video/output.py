"""Generated clips as files."""

import re
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from common.video.write import write_h264


def write_clip(folder: Path, name: str, clip: Tensor, *, fps: float) -> dict[str, str]:
    """Writes a clip as MP4 and as GIF.

    Args:
        folder: of the files; made if need be.
        name: of the clip; letters, digits, dots and lines of it name the files.
        clip: uint8 (F, 3, H, W), 0..255, H and W even.
        fps: frames a second; a GIF takes whole hundredths of a second.

    Returns:
        Paths: {"video": ..., "gif": ...}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[-80:]
    frames = np.ascontiguousarray(clip.permute(0, 2, 3, 1).cpu().numpy())
    video, gif = folder / f"{stem}.mp4", folder / f"{stem}.gif"
    write_h264(video, frames, fps=fps)
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(gif, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
    return {"video": str(video), "gif": str(gif)}
