"""A latent text-to-image UNet of 2.6 M parameters for the built-in world, trained in minutes on two cores."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel

from common.latent.noise import NoiseSchedule, squared_errors
from common.latent.vae import LatentCodec, load_codec
from common.progress import track
from common.random import generator, mix
from common.shapes_world.scene import COLOURS, DIRECTIONS, SHAPES
from common.shapes_world.tracker import find
from common.tiny.folder import finished, save
from common.tiny.pictures import Batch, draw_single

TITLE = "Tiny text-to-image UNet of the built-in world"
TASK = "tiny_text_to_image"
UNET = "unet"  # written last, so that the folder counts as finished with it
SIZE = 32
MAX_TOKENS = 12
DROPPED = 0.1  # share of captions that are hidden, for guidance
JUDGED_PICTURES = 192
STEPS, SCALE = 20, 2.0  # of the sampling that is judged
NOISE: dict[str, Any] = {  # Stable Diffusion's betas, zero terminal SNR (arXiv:2305.08891), as the base of the method
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


def build(*, channels: list[int], heads: int, text_width: int) -> UNet2DConditionModel:
    """The untrained UNet: latents of 4 x 8 x 8, two levels, text in both."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=tuple(channels),
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=heads,
        norm_num_groups=16,
        use_linear_projection=True,
    )


class Captions:
    """States of captions of one object, from the tiny CLIP's text tower."""

    def __init__(self, folder: str) -> None:
        tower: Any = CLIPTextModel.from_pretrained(folder, dtype=torch.float32)
        self.tower = tower.eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """(B, L, D), padded as in the pipelines of Stable Diffusion."""
        for text in {*texts} - self._kept.keys():
            ids = self.tokenizer(text, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")["input_ids"]
            self._kept[text] = self.tower(ids).last_hidden_state[0]
        return torch.stack([self._kept[text] for text in texts])


def caption(batch: Batch, row: int, direction: str) -> str:
    """As the caption of a clip of one object; a picture tells no direction."""
    return f"a {list(COLOURS)[batch.colour[row, 0]]} {SHAPES[batch.shape[row, 0]]} moves {direction}"


def train(
    *,
    folder: str | Path,
    vae: str,
    clip: str,
    seed: int = 0,
    channels: list[int],
    heads: int = 4,
    steps: int = 4000,
    batch: int = 32,
    lr: float = 2e-3,
    warmup: int = 50,
    decay: float = 0.995,
) -> dict[str, float]:
    """Trains the UNet on single pictures and writes a folder with `unet/` and `scheduler/`, unless it is there.

    Args:
        folder: where the result goes.
        vae: folder of the autoencoder.
        clip: folder of the CLIP whose text tower reads the captions.
        seed: of weights, pictures and noise.
        channels: widths of the levels.
        heads: of each attention.
        steps: optimiser steps.
        batch: pictures a step.
        lr: highest learning rate; a cosine down to 0 follows the warm-up.
        warmup: steps of linear warm-up.
        decay: of the average of the weights, which is what is written.

    Returns:
        "colour" and "shape": share of sampled pictures that show what the caption says; "steps" and "seconds".

    Raises:
        ValueError: `folder` holds a model made with other settings.
    """
    settings = {key: value for key, value in locals().items() if key != "folder"}
    folder = Path(folder)
    if (scores := finished(folder / UNET, settings)) is not None:
        return scores
    began = time.monotonic()
    rng = np.random.default_rng(mix("tiny_text_to_image", seed))
    codec, captions, noise = load_codec(weights=vae), Captions(clip), NoiseSchedule(DDPMScheduler(**NOISE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("tiny_text_to_image", seed))
        unet = build(channels=channels, heads=heads, text_width=captions.tower.config.hidden_size)
        average = [parameter.detach().clone() for parameter in unet.parameters()]
        optimiser = torch.optim.AdamW(unet.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.99))
        for step in track(range(steps), description="tiny text-to-image"):
            for group in optimiser.param_groups:
                group["lr"] = lr * min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
            loss = _loss(unet, codec, captions, noise, rng, batch)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimiser.step()
            share = 1 - min(decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [parameter.detach() for parameter in unet.parameters()], share)
    with torch.no_grad():
        for parameter, value in zip(unet.parameters(), average, strict=True):
            parameter.copy_(value)
    scores = {**judge(unet.eval(), codec, captions, seed), "steps": float(steps)}
    scores["seconds"] = round(time.monotonic() - began, 1)
    DDPMScheduler(**NOISE).save_pretrained(folder / "scheduler")
    save(folder / UNET, unet, None, settings=settings, scores=scores, title=TITLE, task=TASK)
    return scores


def _loss(
    unet: UNet2DConditionModel,
    codec: LatentCodec,
    captions: Captions,
    noise: NoiseSchedule,
    rng: np.random.Generator,
    count: int,
) -> Tensor:
    pictures, drawn = draw_single(rng, count=count, size=SIZE)
    directions = rng.choice(list(DIRECTIONS), size=count)
    hidden = rng.random(count) < DROPPED
    texts = ["" if hidden[row] else caption(drawn, row, str(directions[row])) for row in range(count)]
    posterior = codec.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    clean = codec.scale(posterior.sample(torch.randn_like(posterior.mean)))
    noisy_part, times = torch.randn_like(clean), torch.randint(noise.steps, (count,))
    prediction = unet(noise.add_noise(clean, noisy_part, times), times, captions(texts)).sample
    return squared_errors(prediction, noise.target(clean, noisy_part, times)).mean()


@torch.no_grad()
def judge(unet: UNet2DConditionModel, codec: LatentCodec, captions: Captions, seed: int) -> dict[str, float]:
    """Share of sampled pictures whose object has the colour, and the shape, of the caption."""
    _, drawn = draw_single(
        np.random.default_rng(mix("tiny_text_to_image, judged", seed)), count=JUDGED_PICTURES, size=8
    )
    texts = [caption(drawn, row, "left") for row in range(JUDGED_PICTURES)]
    states = torch.cat([captions(texts), captions([""] * JUDGED_PICTURES)])
    scheduler: Any = DDIMScheduler(**NOISE)
    scheduler.set_timesteps(STEPS)
    latents = torch.randn(JUDGED_PICTURES, codec.channels, 8, 8, generator=generator("tiny_text_to_image", seed))
    for t in scheduler.timesteps:
        with_text, without = unet(torch.cat([latents, latents]), t, states).sample.chunk(2)
        latents = scheduler.step(without + SCALE * (with_text - without), t, latents).prev_sample
    shown = [find(picture) for picture in codec.decode(codec.unscale(latents)).permute(0, 2, 3, 1).numpy()]
    colours = [bool(each) and each[0].colour == list(COLOURS)[drawn.colour[row, 0]] for row, each in enumerate(shown)]
    shapes = [bool(each) and each[0].shape == SHAPES[drawn.shape[row, 0]] for row, each in enumerate(shown)]
    return {"colour": round(float(np.mean(colours)), 3), "shape": round(float(np.mean(shapes)), 3)}
