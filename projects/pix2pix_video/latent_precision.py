"""What it costs to keep latents as they are kept: pictures decoded from the cache against those from float32."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from common.files import atomic_write_text
from common.latent.vae import LatentCodec
from common.types import Build
from projects.pix2pix_video.frames import EditFrames
from projects.pix2pix_video.latents import open_latents

FILE = "precision.json"


@torch.inference_mode()
def precision(
    root: Path, *, splits: Mapping[str, EditFrames], codec: Build[LatentCodec], device: torch.device, count: int
) -> dict[str, float]:
    """Decodes the first targets from the cache and from float32 latents, both in float32; records it once.

    The difference is that of the storage in float16 and of the precision that the cache was computed in.

    Args:
        root: folder of the caches of the splits.
        splits: their frames; the first one's are used.
        codec: recipe of the autoencoder.
        device: to compute on.
        count: targets at most.

    Returns:
        `decode_psnr`: the least of the targets, in dB; infinite where not a pixel differs.
    """
    path = root / FILE
    if not path.exists():
        split, frames = next(iter(splits.items()))
        cache = open_latents(root / split, settings={})
        numbers = [number for number, row in enumerate(frames.rows) if row.id in cache][:count]
        reference = codec(dtype="float32", encoder_only=False).to(device)
        values = [_psnr(reference, frames, number, cache[frames.rows[number].id][-2]) for number in numbers]
        record = {"split": split, "rows": [frames.rows[number].id for number in numbers], "decode_psnr": values}
        atomic_write_text(path, json.dumps(record, indent=2) + "\n")
    found = json.loads(path.read_text())["decode_psnr"]
    return {"decode_psnr": min((math.inf if value is None else value for value in found), default=math.inf)}


def _psnr(reference: LatentCodec, frames: EditFrames, number: int, stored: torch.Tensor) -> float | None:
    """Of one target, in dB; None where both pictures are equal."""
    device = next(reference.parameters()).device
    exact = reference.encode(frames.target_of(number)[None].to(device)).mean
    kept, whole = (reference.decode(latents).float() for latents in (stored[None].to(device).float(), exact))
    error = float((kept - whole).square().mean())
    return 10 * math.log10(255**2 / error) if error else None
