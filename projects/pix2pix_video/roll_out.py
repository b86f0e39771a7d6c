"""Frame after frame: each prediction becomes the newest frame of the next history; and what is written of it."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common.files import atomic_write_bytes
from common.video.write import write_h264
from projects.pix2pix_video.requests import RequestBatch

Encode = Callable[[Tensor], Tensor]  # uint8 (B, n, 3, H, W) -> unscaled modes (B, n, C, h, w)
Predict = Callable[[Tensor, int], Tensor]  # modes (B, T, C, h, w), number of the step -> uint8 (B, 3, H, W)


def roll_out(encode: Encode, predict: Predict, history: Tensor, *, frames: int) -> Tensor:
    """Predicts further frames, each from the T before it. Every frame is encoded once.

    Args:
        encode: gives the modes of frames, each by itself.
        predict: gives the next frame of a history of modes; the number of the step, from 0, is for its noise, which
            must not be the same at each step.
        history: uint8 (B, T, 3, H, W), 0..255, oldest first.
        frames: how many, at least 1.

    Returns:
        uint8 (B, frames, 3, H, W), without the history.
    """
    modes, found = encode(history), list[Tensor]()
    for step in range(frames):
        if found:  # the oldest leaves, the newest prediction comes in
            modes = torch.cat([modes[:, 1:], encode(found[-1][:, None])], dim=1)
        found.append(predict(modes, step))
        assert found[-1].dtype == torch.uint8, found[-1].dtype
    return torch.stack(found, dim=1)


def answer(batch: RequestBatch, encode: Encode, predict: Predict, *, folder: Path) -> list[dict[str, str]]:
    """Rolls out the requests of a batch and writes what was predicted.

    Args:
        batch: of requests.
        encode: as for `roll_out`.
        predict: likewise; its rows are those of `batch.prompts`.
        folder: of the files.

    Returns:
        A line for each request: {"id", "prompt", "frame", "video"}, with "error" in place of the files where the
        frames could not be read.
    """
    lines = [{"id": each.id, "prompt": each.prompt, "error": each.reason} for each in batch.unreadable]
    if batch.history is None:
        return lines
    found = roll_out(encode, predict, batch.history, frames=batch.frames)
    for row, (number, name, prompt) in enumerate(zip(batch.numbers, batch.ids, batch.prompts, strict=True)):
        files = write_prediction(folder, file_name(number, name), batch.history[row], found[row], fps=batch.fps)
        lines.append({"id": name, "prompt": prompt, **files})
    return lines


def write_prediction(folder: Path, name: str, history: Tensor, frames: Tensor, *, fps: float) -> dict[str, str]:
    """Writes the next frame as PNG, and history and predictions as MP4.

    Args:
        folder: of the files; made if need be.
        name: of the files, without suffix; see `file_name`.
        history: uint8 (T, 3, H, W), 0..255, H and W even.
        frames: uint8 (n, 3, H, W), n >= 1.
        fps: of the MP4.

    Returns:
        Paths: {"frame": ..., "video": ...}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image, video = folder / f"{name}.png", folder / f"{name}.mp4"
    buffer = io.BytesIO()
    Image.fromarray(_channels_last(frames[:1])[0]).save(buffer, format="PNG")
    atomic_write_bytes(image, buffer.getvalue())
    write_h264(video, _channels_last(torch.cat([history.cpu(), frames.cpu()])), fps=fps)
    return {"frame": str(image), "video": str(video)}


def file_name(number: int, name: str) -> str:
    """A file name that no other request has, and that still tells its name: letters, digits, dots, lines."""
    return f"{number:04d}_{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[-80:]}"


def _channels_last(frames: Tensor) -> NDArray[np.uint8]:
    """uint8 (n, H, W, 3)."""
    return np.ascontiguousarray(frames.permute(0, 2, 3, 1).cpu().numpy())
