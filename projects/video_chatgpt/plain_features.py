"""Features as a plain script computes them, one video after the other: what the task is compared with.

The steps and their order are those of the published `scripts/save_spatio_temporal_clip_features.py`. Nothing is held
back: one process, but with as many threads as each library takes by default (decord's decoder and torch both take all
cores), the model loaded once, frames decoded once each.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPVisionModel

from common.encoders.turns import pick_devices
from common.video.decode import read
from common.video.decord import read_bare
from common.video.sample import midpoint
from common.weights.pretrained import load_pretrained

BATCH = 32  # frames a forward


class PlainLoop:
    """The published steps for one video at a time.

    Args:
        weights: Hub id or folder of a CLIP model.
        dtype: of the encoder, such as "float16".
        temporal: frames a clip at most, and rows of frames.
        reader: "decord", as published, in this process and with its default threads; "pyav", ours, on one thread; or
            "auto", decord where it is installed.
        devices: as for the task; the first is used.
    """

    def __init__(
        self, *, weights: str, dtype: str, temporal: int, reader: str = "auto", devices: str | Sequence[str] = "auto"
    ) -> None:
        if reader not in ("auto", "decord", "pyav"):
            raise ValueError(f"task.plain.reader={reader} is not one of auto, decord, pyav")
        installed = "decord" if find_spec("decord") else "pyav"
        self.temporal, self.reader = temporal, installed if reader == "auto" else reader
        self.device = pick_devices(devices)[0]
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.model = load_pretrained(CLIPVisionModel, weights, dtype=self.dtype).eval().to(self.device)
        self.processor = CLIPImageProcessorPil.from_pretrained(weights)
        self.size = int(self.model.config.image_size)

    @torch.no_grad()
    def __call__(self, path: Path) -> NDArray[np.float16]:
        """Features of a video, float16 (T + P, D)."""
        pixels = self._pixels(self._shrink(self._read(path)))
        hidden = [self._encode(frames) for frames in pixels.split(BATCH)]
        patches = torch.cat(hidden).numpy().astype(np.float16)
        rows = patches.mean(axis=1)
        padding = np.zeros((self.temporal - len(rows), rows.shape[1]), dtype=np.float16)
        return np.concatenate([rows, padding, patches.mean(axis=0)])

    def _read(self, path: Path) -> NDArray[np.uint8]:
        if self.reader == "decord":
            return read_bare(path, lambda num_frames: midpoint(num_frames, self.temporal))
        return read(path, lambda info: midpoint(info.num_frames, self.temporal)).frames

    def _shrink(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Nearest neighbours of whole frames in float, then truncated."""
        if frames.shape[1:3] == (self.size, self.size):
            return frames
        floats = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
        small = functional.interpolate(floats, size=(self.size, self.size))
        shrunk: NDArray[np.uint8] = small.permute(0, 2, 3, 1).to(torch.uint8).numpy()
        return shrunk

    def _pixels(self, frames: NDArray[np.uint8]) -> Tensor:
        pictures = [Image.fromarray(frame) for frame in frames]
        pixels: Tensor = self.processor.preprocess(pictures, return_tensors="pt")["pixel_values"]
        return pixels.to(self.dtype)

    def _encode(self, pixels: Tensor) -> Tensor:
        """Patches of the last block but one, after all blocks have run; float32 (t, P, D)."""
        states = self.model(pixels.to(self.device), output_hidden_states=True).hidden_states
        patches: Tensor = states[-2][:, 1:]
        return patches.float().cpu()
