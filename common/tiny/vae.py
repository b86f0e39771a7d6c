"""An autoencoder of 0.3 M parameters, trained on pictures of the built-in world in minutes on two cores."""

import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from common.progress import track
from common.random import mix
from common.tiny.folder import finished, save
from common.tiny.pictures import draw_batch

TITLE = "Tiny autoencoder of the built-in world"
TASK = "tiny_vae"
SIZE = 32
GROUPS = 8  # of the group norms
JUDGED_PICTURES = 512


def build(*, channels: list[int], latent_channels: int) -> AutoencoderKL:
    """The untrained autoencoder: pictures of 32 pixels to `latent_channels` x 8 x 8 with three widths."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=GROUPS,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def train(
    *,
    folder: str | Path,
    seed: int = 0,
    channels: list[int],
    latent_channels: int = 4,
    steps: int = 2000,
    batch: int = 32,
    lr: float = 2e-3,
    warmup: int = 50,
    kl: float = 1e-4,
) -> dict[str, float]:
    """Trains the autoencoder and writes a diffusers folder, unless it is there.

    The loss is the mean squared error on pixels in -1..1, plus `kl` times the divergence of the posterior from the
    standard normal, both means over their elements. The scaling factor is one over the standard deviation of the
    latents, as in arXiv:2112.10752.

    Args:
        folder: where the result goes.
        seed: of weights and pictures.
        channels: widths, from full size downwards; each further one halves the side.
        latent_channels: C of the latents.
        steps: optimiser steps.
        batch: pictures a step.
        lr: highest learning rate; a cosine down to 0 follows the warm-up.
        warmup: steps of linear warm-up.
        kl: weight of the divergence.

    Returns:
        "psnr" of the round trip of new pictures in dB (mean over pictures), "steps" and "seconds".

    Raises:
        ValueError: `folder` holds a model made with other settings.
    """
    settings = {key: value for key, value in locals().items() if key != "folder"}
    folder = Path(folder)
    if (scores := finished(folder, settings)) is not None:
        return scores
    began = time.monotonic()
    rng = np.random.default_rng(mix("tiny_vae", seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("tiny_vae", seed))
        model = build(channels=channels, latent_channels=latent_channels).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0, betas=(0.9, 0.99))
        for step in track(range(steps), description="tiny autoencoder"):
            for group in optimiser.param_groups:
                group["lr"] = lr * min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
            loss = _loss(model, normalise(draw_batch(rng, count=batch, size=SIZE)[0]), kl)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
    judged = normalise(draw_batch(rng, count=JUDGED_PICTURES, size=SIZE)[0])
    psnr, deviation = judge(model.eval(), judged)
    model.register_to_config(scaling_factor=round(1 / deviation, 5))
    scores = {"psnr": round(psnr, 2), "steps": float(steps), "seconds": round(time.monotonic() - began, 1)}
    save(folder, model, None, settings=settings, scores=scores, title=TITLE, task=TASK)
    return scores


def normalise(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in -1..1."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


def _loss(model: AutoencoderKL, pixels: Tensor, kl: float) -> Tensor:
    posterior = model.encode(pixels).latent_dist
    error = functional.mse_loss(model.decode(posterior.sample()).sample, pixels)
    divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    loss: Tensor = error + kl * divergence
    return loss


@torch.no_grad()
def judge(model: AutoencoderKL, pixels: Tensor) -> tuple[float, float]:
    """Mean PSNR of the round trip in dB, data range 2, and the standard deviation of the latents."""
    latents = model.encode(pixels).latent_dist.mean
    error = (model.decode(latents).sample.clamp(-1, 1) - pixels).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean()), float(latents.std())
