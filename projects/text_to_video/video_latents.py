"""Latents of clips: where they lie, how training reads them, and how a clip is encoded, cached or on the fly.

The folder of a split holds one cache for each bucket, named like 512x512x64, whose entries are clips by their id:
(F, C, h, w), the means of the frames, unscaled, or (F, 2C, h, w) with the log-variances behind them. F is the true
length of the clip, at most that of the bucket. `clips.jsonl` beside them has a row for each clip that is there: id,
caption, frames, bucket, fps, repeated, video and what else its source tells of it.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.cache import Cache, Settings, StaleCacheError
from common.files import read_jsonl
from common.latent.vae import LatentCodec
from projects.text_to_video.buckets import Bucket
from projects.text_to_video.clip_frames import Crop, clip_frames

__all__ = ["VideoLatents", "clip_frames", "encode_clip", "latent_settings", "open_video_latents", "settings_of"]

INDEX = "clips.jsonl"
TASK = "python -m launchers.prepare task=video_latents"
SHAPE = ("height", "width", "frames")  # settings that tell one bucket from another
# How a cache was computed is told, not asked for: half a step of bfloat16 is no other autoencoder.
TOLD = ("vae_dtype", "dtype", "backend")


def latent_settings(codec: LatentCodec) -> dict[str, str | int | float | bool | None]:
    """What tells the latents of one autoencoder from those of another."""
    return {"vae": codec.identity, "scaling_factor": codec.scaling_factor, "shift_factor": codec.shift_factor}


def settings_of(
    codec: LatentCodec, *, bucket: Bucket, fps: float, crop: Crop, logvar: bool, dtype: str, backend: str | None = None
) -> dict[str, str | int | float | bool | None]:
    """What the latents of a bucket depend on, besides the videos."""
    settings = latent_settings(codec) | {
        "vae_dtype": str(codec.dtype).removeprefix("torch."),
        "fps": float(fps),
        "seconds": bucket.frames / fps,
        "height": bucket.height,
        "width": bucket.width,
        "frames": bucket.frames,
        "crop": crop,
        "logvar": logvar,
        "dtype": dtype,
    }
    return settings if backend is None else settings | {"backend": backend}


@torch.inference_mode()
def encode_clip(codec: LatentCodec, frames: Tensor, *, at_once: int, logvar: bool, dtype: str) -> Tensor:
    """Latents of one clip as they are stored.

    A frame that equals the one before it is encoded once: sources with fewer frames a second have many. The
    frames of no other clip share a batch with it, so cached and fresh latents are the same bits on one machine.

    Args:
        codec: the autoencoder.
        frames: uint8 (F, 3, H, W).
        at_once: frames that go through it together.
        logvar: put the log-variance behind the mean.
        dtype: to round to, "bfloat16" or "float16".

    Returns:
        (F, C, h, w) or (F, 2C, h, w), unscaled, on the CPU.

    Raises:
        ValueError: a number that the dtype cannot hold.
    """
    device = next(codec.parameters()).device
    frames = frames.to(device, non_blocking=True)
    new = torch.ones(len(frames), dtype=torch.bool, device=device)
    new[1:] = (frames[1:] != frames[:-1]).flatten(1).any(1)
    distinct = frames[new]
    posteriors = [codec.encode(distinct[start : start + at_once]) for start in range(0, len(distinct), at_once)]
    made = torch.cat([torch.cat([*posterior], 1) if logvar else posterior.mean for posterior in posteriors])
    stored = made.to(getattr(torch, dtype))[new.cumsum(0) - 1].cpu()
    if not stored.isfinite().all():
        raise ValueError(f"the autoencoder gives numbers that {dtype} cannot hold; give task.codec.dtype=float32")
    return stored


class VideoLatents(Mapping[str, Tensor]):
    """The latents of one split by the id of the clip; tensors come from memory-mapped files.

    Attributes:
        rows: of `clips.jsonl`, those of the buckets that are open, in the order of their source.
        settings: of the first bucket: what all have in common, and its size and length.
        others: number of clips in the buckets that are not open, by name of the bucket.
    """

    def __init__(self, folder: str | Path, *, settings: Settings) -> None:
        """See `open_video_latents`."""
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise FileNotFoundError(
                f"no finished cache of latents in {folder}; make it with {TASK}, or set data.*.latents=null to encode "
                "on the fly"
            )
        made = {path.parent.name: json.loads(path.read_text()) for path in sorted(self.folder.glob("*/index.json"))}
        made_with = {name: _made_with(self.folder / name) for name in made}
        shape = {key: settings[key] for key in SHAPE if key in settings}
        fitting = [name for name, found in made_with.items() if all(found[key] == shape[key] for key in shape)]
        self._buckets = {name: self._open(name, settings) for name in fitting or made_with}
        assert fitting or not made_with, "a bucket of another shape has been opened"
        rows = read_jsonl(self.folder / INDEX)
        self.rows = [row for row in rows if row["bucket"] in self._buckets]
        self.others = dict(Counter(row["bucket"] for row in rows if row["bucket"] not in self._buckets))
        self.settings = next((made_with[name] for name in fitting), {})
        self._where = {row["id"]: row["bucket"] for row in self.rows}

    @property
    def buckets(self) -> list[str]:
        """Names of those that are open."""
        return list(self._buckets)

    def _open(self, name: str, settings: Settings) -> Cache:
        try:
            return Cache(self.folder / name, settings={key: settings[key] for key in settings if key not in TOLD})
        except StaleCacheError as error:
            raise StaleCacheError(
                f"{error}; {TASK} with task.cache=<another folder> makes one for this run, data.*.latents=null encodes "
                "on the fly"
            ) from error

    def __getitem__(self, name: str) -> Tensor:
        return self._buckets[self._where[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def open_video_latents(folder: str | Path, *, settings: Settings) -> VideoLatents:
    """The latents of one split.

    Args:
        folder: of the split, such as .../latents/train.
        settings: `settings_of` the run, or some of them. Of a cache of several buckets, those that have the height,
            width and frames that are asked for are opened.

    Raises:
        FileNotFoundError: there is no finished cache.
        StaleCacheError: it is one of another autoencoder, frame rate, size, length or crop; names both values.
    """
    return VideoLatents(folder, settings=settings)


def _made_with(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "plan.json").read_text())["settings"])
