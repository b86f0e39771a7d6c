"""What may be computed once: latents of targets, and class embeddings while the tower does not learn.

A folder holds `latents` and `embeddings`, each a cache (`common.data.cache`) whose entries are rows by their name:
float16 (R, F, 2 C, h, w), mean and log-variance, unscaled, and float32 (R, F, D), for R fixed crops and all F frames.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.data.cache import Cache, Settings, StaleCacheError
from common.encoders.tower import ContrastiveTower
from common.latent.vae import LatentCodec

LATENTS, EMBEDDINGS = "latents", "embeddings"
LATENT_DTYPE = torch.float16
TASK = "python -m launchers.prepare task=genhancer_latents"


class FrameCache:
    """Entries of rows, by crop and frame; tensors come from memory-mapped files."""

    def __init__(self, folder: str | Path, *, settings: Settings, key: str) -> None:
        """
        Args:
            folder: of the cache.
            settings: that it must have been made with.
            key: of the configuration that names it.
        """
        self.folder, self.key = Path(folder), key
        try:
            self._cache = Cache(self.folder, settings=settings)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no finished cache in {folder}; make it with {TASK}, or set {key}=null") from error
        except StaleCacheError as error:
            raise StaleCacheError(
                f"{error}; {TASK} with task.cache=<another folder> makes one for this run, {key}=null computes anew"
            ) from error

    def __len__(self) -> int:
        return len(self._cache)

    def __contains__(self, name: str) -> bool:
        return name in self._cache

    def of(self, name: str, crop: int | None, frames: Sequence[int]) -> Tensor:
        """The entries of some frames of a row in one crop: (len(frames), ...)."""
        assert crop is not None, "a cache is of fixed crops"
        return self._cache[name][crop, list(frames)]


def latent_settings(codec: LatentCodec) -> dict[str, str | int | float | bool | None]:
    """What tells the latents of one autoencoder from those of another."""
    return {"vae": codec.identity, "scaling_factor": codec.scaling_factor, "shift_factor": codec.shift_factor}


def tower_settings(tower: ContrastiveTower) -> dict[str, str | int | float | bool | None]:
    """What tells the embeddings of one tower from those of another."""
    return {"tower": tower.identity}


def open_latents(folder: str | Path, settings: Settings) -> FrameCache:
    """The latents of one split.

    Args:
        folder: such as .../train/latents.
        settings: `latent_settings`, `rows` (fingerprint), `size` in pixels, or those of the crops; or some of them.

    Raises:
        FileNotFoundError: there is no finished cache.
        StaleCacheError: it is one of another autoencoder, size, crop or other rows; names both values.
    """
    return FrameCache(folder, settings=settings, key="data.*.latents")


def open_embeddings(folder: str | Path, settings: Settings) -> FrameCache:
    """The class embeddings of one split; as `open_latents`, with `tower_settings`."""
    return FrameCache(folder, settings=settings, key="data.*.embeddings")
