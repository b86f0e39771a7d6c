"""What it costs to keep latents of clips as they are kept: measured on some frames, once, and recorded."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.files import atomic_write_text
from common.latent.precision import decode_psnr, least
from common.latent.vae import LatentCodec
from common.types import Build
from common.video.sample import uniform
from projects.text_to_video.latent_pipeline import Clips
from projects.text_to_video.latent_result import Split
from projects.text_to_video.video_latents import open_video_latents

FILE = "precision.json"
FRAMES = 4  # of a clip, at equal distance


def precision(
    root: Path, splits: Sequence[Split], *, videos: Clips, codec: Build[LatentCodec], device: torch.device, count: int
) -> dict[str, float]:
    """Decodes frames of the first clips from the cache and from float32 latents, both in float32; records it once.

    Args:
        root: folder of the splits.
        splits: the first one's clips are used.
        videos: how their frames are read.
        codec: recipe of the autoencoder.
        device: to compute on.
        count: clips at most.

    Returns:
        `decode_psnr`: the least of the clips, in dB; infinite where not a pixel differs.
    """
    path = root / FILE
    if not path.exists():
        split = splits[0]
        cache = open_video_latents(split.folder, settings={})
        found = [(each.bucket, clip) for each in split.targets for clip in each.clips if clip.row.id in cache][:count]
        shown = Clips(found, fps=videos.fps, crop=videos.crop, backend=videos.backend)
        reference = codec(dtype="float32", encoder_only=False).to(device)
        values = [_psnr(reference, shown[number], cache[clip.row.id]) for number, (_, clip) in enumerate(found)]
        record = {"split": split.folder.name, "clips": [clip.row.id for _, clip in found], "decode_psnr": values}
        atomic_write_text(path, json.dumps(record, indent=2) + "\n")
    return {"decode_psnr": least(json.loads(path.read_text())["decode_psnr"])}


def _psnr(reference: LatentCodec, frames: Tensor | str, stored: Tensor) -> float | None:
    if isinstance(frames, str):
        raise ValueError(f"a clip that has been encoded can no longer be read: {frames}")
    chosen = torch.from_numpy(uniform(len(frames), min(FRAMES, len(frames))))
    return decode_psnr(reference, frames[chosen], stored[chosen, : reference.channels])
