"""What it costs to keep latents as they are kept: pictures decoded from the cache against those from float32."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from common.files import atomic_write_text
from common.latent.precision import decode_psnr, least
from common.latent.vae import LatentCodec
from common.types import Build
from projects.pix2pix_video.frames import EditFrames
from projects.pix2pix_video.latents import open_latents

FILE = "precision.json"


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
        values = [
            decode_psnr(reference, frames.target_of(number)[None], cache[frames.rows[number].id][-2][None])
            for number in numbers
        ]
        record = {"split": split, "rows": [frames.rows[number].id for number in numbers], "decode_psnr": values}
        atomic_write_text(path, json.dumps(record, indent=2) + "\n")
    return {"decode_psnr": least(json.loads(path.read_text())["decode_psnr"])}
