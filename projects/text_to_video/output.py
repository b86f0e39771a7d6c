"""Generated clips as files."""

import re
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from common.video.write import write_h264


def stem_of(name: str) -> str:
    """What the files of a clip are called: letters, digits, dots and lines of its name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[-80:]


def write_clip(folder: Path, name: str, clip: Tensor, *, fps: float, file: str = "") -> dict[str, str]:
    """Writes a clip as MP4 and as GIF, or as the one MP4 that is asked for.

    Args:
        folder: of the files; made if need be.
        name: of the clip, see `stem_of`.
        clip: uint8 (F, 3, H, W), 0..255, H and W even.
        fps: frames a second; a GIF takes whole hundredths of a second.
        file: MP4 to write in the place of both; "" for none.

    Returns:
        Paths: {"video": ..., "gif": ...}; no GIF where `file` is given.
    """
    frames = np.ascontiguousarray(clip.permute(0, 2, 3, 1).cpu().numpy())
    if file:
        write_h264(Path(file), frames, fps=fps)
        return {"video": file}
    folder.mkdir(parents=True, exist_ok=True)
    video, gif = folder / f"{stem_of(name)}.mp4", folder / f"{stem_of(name)}.gif"
    write_h264(video, frames, fps=fps)
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(gif, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
    return {"video": str(video), "gif": str(gif)}
