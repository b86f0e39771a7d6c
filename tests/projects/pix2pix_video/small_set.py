"""A set of edits of a few rows that share frames, and small random encoders for it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.encoders.text import ClipText
from common.latent.vae import load_codec
from projects.pix2pix_video.arrow import write_set
from projects.pix2pix_video.rows import EditRow

HISTORY, SIZE, LATENT = 3, 16, (4, 8, 8)
CLIP = str(Path(__file__).resolve().parents[3] / "common" / "tiny" / "weights" / "clip")
VAE: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": SIZE,
}
CODEC = partial(load_codec, weights="random", architecture=VAE)
TEXT = partial(ClipText, weights=CLIP, max_tokens=12)
# Windows of a clip that overlap, and two instructions for one history: frames are shared in both ways.
ROWS = {"train": 9, "val": 4, "test": 3}
INSTRUCTIONS = ("make the ring red", "turn the ring back", "keep the square moving")


def make_set(root: Path) -> Path:
    """Writes frames to `root`/media and the set to `root`/set, which it returns."""
    rng = np.random.default_rng(0)
    for split in ROWS:
        (root / "media" / split).mkdir(parents=True)
        for number in range(8):
            picture = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(picture).save(root / "media" / split / f"{number:02d}.png")
    folder = root / "set"
    folder.mkdir()
    splits = {split: [_row(split, number) for number in range(count)] for split, count in ROWS.items()}
    write_set(folder, splits, media=root / "media", history=HISTORY)
    (folder / "edits.json").write_text(json.dumps({"media": "../media"}))
    return folder


def _row(split: str, number: int) -> EditRow:
    first = number // 2  # rows 0 and 1 have one history, 2 and 3 the next
    return EditRow(
        id=f"{split}/{number}",
        history=tuple(f"{split}/{first + frame:02d}.png" for frame in range(HISTORY)),
        target=f"{split}/{first + HISTORY - number % 2:02d}.png",
        instruction=INSTRUCTIONS[number % len(INSTRUCTIONS)],
        task="recolour",
        pair=f"{split}/{first}",
    )
