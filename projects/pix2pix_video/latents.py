"""Latents of all frames of a set, and the states of its prompts: where they lie, and how training reads them.

A cache folder holds one cache for each split, `train`, `val`, `test`, and one for the prompts, `text`. An entry of a
split is a row by its id, float16 (T + 2, C, h, w): the means of the T history frames, oldest first, then the mean and
the log-variance of the target, all unscaled. An entry of `text` is a prompt by itself, float16 (L, D): the last hidden
states; "" is always among them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.data.cache import Cache, Settings, StaleCacheError
from common.data.prompt_table import text_settings_of
from common.latent.vae import LatentCodec
from projects.pix2pix_video.frames import Crop

__all__ = ["load_all", "open_latents", "open_text", "settings_of", "text_settings_of"]

TEXT = "text"  # the folder of the prompts
NULL = ""  # the prompt of the branches without one
DTYPE = torch.float16
TASK = "python -m launchers.prepare task=edit_latents"
# The precision that a cache was computed in is told, not asked for: half a step of float16 is no other autoencoder.
TOLD = ("vae_dtype", "text_encoder_dtype")


def settings_of(
    codec: LatentCodec, *, size: int, crop: Crop, history: int, rows: str | None = None
) -> dict[str, str | int | float | bool | None]:
    """What latents depend on.

    Args:
        codec: the autoencoder.
        size: side of the frames in pixels.
        crop: "squash" or "centre".
        history: T.
        rows: fingerprint of the rows (`EditFrames.fingerprint`), if they are known.
    """
    settings: dict[str, str | int | float | bool | None] = {
        "vae": codec.identity,
        "vae_dtype": _name(codec.dtype),
        "scaling_factor": codec.scaling_factor,
        "size": size,
        "crop": crop,
        "history": history,
        "dtype": _name(DTYPE),
    }
    return settings if rows is None else settings | {"rows": rows}


def open_latents(folder: Path, *, settings: Settings) -> Cache:
    """The latents of one split.

    Args:
        folder: of the split, such as .../latents/train.
        settings: `settings_of` the run, or some of them.

    Raises:
        FileNotFoundError: there is no finished cache.
        StaleCacheError: it is one of another autoencoder, size, crop, history or other rows; names both values.
    """
    return _open(folder, settings, "data.*.latents")


def open_text(folder: Path, *, settings: Settings) -> Cache:
    """The states of the prompts; as `open_latents`, with `text_settings_of`."""
    return _open(folder, settings, "data.*.text")


def load_all(cache: Cache, names: Sequence[str]) -> Tensor:
    """Entries as one tensor in memory, in the order of their names: (R, T + 2, C, h, w), or (R, L, D) of prompts.

    Raises:
        ValueError: the cache lacks some; names the first, and why it failed where that is known.
    """
    lacking = [name for name in names if name not in cache]
    if lacking:
        reason = _failures(cache.folder).get(lacking[0], "it was not in the set when the cache was made")
        raise ValueError(
            f"{cache.folder} lacks {len(lacking)} of {len(names)} entries, first {lacking[0]!r}: {reason}; repair the "
            f"files or take those rows out of the set, remove the folder, and run {TASK} again"
        )
    assert names, "no entry is asked for"
    first = cache[names[0]]
    entries = torch.empty(len(names), *first.shape, dtype=first.dtype)
    for number, name in enumerate(names):
        entries[number] = cache[name]
    return entries


def _open(folder: Path, settings: Settings, key: str) -> Cache:
    remedy = f"{TASK} with task.cache=<another folder> makes one for this run, {key}=null encodes on the fly"
    try:
        return Cache(folder, settings={name: value for name, value in settings.items() if name not in TOLD})
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no finished cache in {folder}; make it with {TASK}, or set {key}=null") from error
    except StaleCacheError as error:
        raise StaleCacheError(f"{error}; {remedy}") from error


def _failures(folder: Path) -> dict[str, str]:
    path = folder / "failures.json"
    return {each["name"]: each["reason"] for each in json.loads(path.read_text())} if path.exists() else {}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
