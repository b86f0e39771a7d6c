"""Clips and pictures on disk whose frames carry numbers: 100 times the clip's, plus the frame's."""

import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.data.tar import write_members
from projects.genhancer.batch import Batch
from projects.genhancer.clip_media import TABLE, ClipTars
from projects.genhancer.crops import Crops
from projects.genhancer.data import Clips, Images
from projects.genhancer.media import ImageFolder
from projects.genhancer.samplers import Triplets
from tests.common.video.files import draw, number_of

SIZE = 64
LATENT = [4, 8, 8]
WHOLE = Crops(area=[1, 1], aspect=[1, 1], count=1)


def picture(number: int) -> NDArray[np.uint8]:
    """A square picture with its number."""
    return draw(number, height=SIZE, width=SIZE)


def jpeg(frame: NDArray[np.uint8], kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format=kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def write_clips(
    folder: Path, lengths: Sequence[int], *, fps: float = 8.0, order: Sequence[int] | None = None, **frames: Any
) -> Path:
    """A tar of clips of so many frames each; `order` moves the members of the tar about."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, members = [], []
    for clip, length in enumerate(lengths):
        row = {"id": f"clip {clip}", "key": f"{clip:04d}", "label": f"label {clip}", "source": f"{clip}.webm"}
        row["seconds"] = (np.arange(length) / fps).tolist()
        rows.append(row)
        pictures = frames.get("pictures") or [picture(100 * clip + frame) for frame in range(length)]
        members += [(f"{clip:04d}.{frame}.jpg", jpeg(pictures[frame])) for frame in range(length)]
        members.append((f"{clip:04d}.json", json.dumps(row).encode()))
    if order is not None:
        members = [members[place] for place in order]
    with open(folder / "shard_00000.tar", "wb") as file:
        write_members(file, members)
    (folder / TABLE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(picture(number)).save(folder / f"{number:04d}.png")
    return folder


def clips(folder: Path, **changes: Any) -> Clips:
    """Clips of a folder, whole frames, start and end to middle."""
    arguments: dict[str, Any] = {
        "media": partial(ClipTars, folder=str(folder)),
        "sampler": Triplets(),
        "split": "train",
        "size": SIZE,
        "target": SIZE,
        "latent": LATENT,
        "crops": WHOLE,
        "latents": None,
        "embeddings": None,
        "pictures": False,
        "seed": 0,
    }
    return Clips(**{**arguments, **changes})


def images(folder: Path, **changes: Any) -> Images:
    """Pictures of a folder, whole."""
    arguments: dict[str, Any] = {
        "media": partial(ImageFolder, folder=str(folder)),
        "split": "train",
        "size": SIZE,
        "target": SIZE,
        "latent": LATENT,
        "crops": WHOLE,
        "latents": None,
        "embeddings": None,
        "pictures": False,
        "seed": 0,
    }
    return Images(**{**arguments, **changes})


def numbers_of(batch: Batch) -> list[list[int]]:
    """The numbers that a batch shows, of each sample the conditions' and the target's."""
    assert batch.conditions is not None
    assert batch.target is not None
    return [
        [number_of(frame.permute(1, 2, 0).numpy()) for frame in (*shown, target)]
        for shown, target in zip(batch.conditions, batch.target, strict=True)
    ]
