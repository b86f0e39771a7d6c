"""A latent text-to-image model of the built-in world, trained in minutes on two cores."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from common.latent.noise import NoiseSchedule, squared_errors
from common.latent.vae import LatentCodec, load_codec
from common.progress import track
from common.random import generator, mix
from common.shapes_world.scene import COLOURS, DIRECTIONS, SHAPES
from common.shapes_world.tracker import find
from common.tiny.folder import finished, save
from common.tiny.pictures import Batch, draw_single
from common.tiny.words import CLIP_SPECIAL, build_tokenizer

TITLE = "Tiny text-to-image model of the built-in world"
TASK = "tiny_text_to_image"
UNET = "unet"  # written last, so that the folder counts as finished with it
SIZE = 32
MAX_TOKENS = 12
HEAD_WIDTH = 32  # of the text tower
DROPPED = 0.1  # share of captions that are hidden, for guidance
PLACED = 0.5  # share of captions that tell a side on which the object is
SIDE = 1 / 3  # of the picture
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


def build_text(*, width: int, layers: int, words: int) -> CLIPTextModel:
    """A text tower that stays as it is drawn: all its words are equally far from each other.

    A trained one knows what pictures told it. The shipped CLIP's, or one that learns with the UNet, makes states of
    "moves left" and "moves up" that hardly differ, since no picture shows the difference, and a video model that starts
    from there does not hear which way to go.
    """
    tower: Any = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=words,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // HEAD_WIDTH,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=width,
            pad_token_id=CLIP_SPECIAL.index("<pad>"),
            bos_token_id=CLIP_SPECIAL.index("<s>"),
            eos_token_id=CLIP_SPECIAL.index("</s>"),
        )
    )
    nn.init.normal_(tower.get_input_embeddings().weight)
    frozen: CLIPTextModel = tower.eval().requires_grad_(False)
    return frozen


class Captions:
    """States of captions of one object."""

    def __init__(self, tower: CLIPTextModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tower: Any = tower
        self.tokenizer = tokenizer
        self._kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """(B, L, D), padded as in the pipelines of Stable Diffusion."""
        for text in {*texts} - self._kept.keys():
            ids = self.tokenizer(text, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")["input_ids"]
            self._kept[text] = self.tower(ids).last_hidden_state[0]
        return torch.stack([self._kept[text] for text in texts])


def caption(batch: Batch, row: int, side: str | None = None) -> str:
    """What a picture shows, and on which side, in the place where the caption of a clip tells where to."""
    name = f"a {list(COLOURS)[batch.colour[row, 0]]} {SHAPES[batch.shape[row, 0]]}"
    return name if side is None else f"{name} at {side}"


def sides(x: float, y: float) -> list[str]:
    """The sides on which an object is, named as the directions that lead there; its centre in shares of the picture."""
    return [name for name, (dx, dy) in DIRECTIONS.items() if dx * (x - 0.5) + dy * (y - 0.5) > 0.5 - SIDE]


def train(
    *,
    folder: str | Path,
    vae: str,
    seed: int = 0,
    channels: list[int],
    heads: int,
    text_width: int,
    text_layers: int,
    steps: int = 4500,
    batch: int = 32,
    lr: float = 2e-3,
    warmup: int = 50,
    decay: float = 0.995,
) -> dict[str, float]:
    """Trains on single pictures and writes a folder as of Stable Diffusion, less the autoencoder, unless it is there.

    Args:
        folder: where the result goes.
        vae: folder of the autoencoder.
        seed: of weights, pictures and noise.
        channels: widths of the levels.
        heads: of each attention of the UNet.
        text_width: of the text tower.
        text_layers: its blocks.
        steps: optimiser steps.
        batch: pictures a step.
        lr: highest learning rate; a cosine down to 0 follows the warm-up.
        warmup: steps of linear warm-up.
        decay: of the average of the weights, which is what is written.

    Returns:
        "colour", "shape" and "side": share of sampled pictures that show what the caption says; "steps" and "seconds".

    Raises:
        ValueError: `folder` holds a model made with other settings.
    """
    settings = {key: value for key, value in locals().items() if key != "folder"}
    folder = Path(folder)
    if (scores := finished(folder / UNET, settings)) is not None:
        return scores
    began = time.monotonic()
    rng = np.random.default_rng(mix("tiny_text_to_image", seed))
    codec, noise = load_codec(weights=vae), NoiseSchedule(DDPMScheduler(**NOISE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("tiny_text_to_image", seed))
        unet = build(channels=channels, heads=heads, text_width=text_width)
        tokenizer = build_tokenizer(clip=True, max_length=MAX_TOKENS)
        captions = Captions(build_text(width=text_width, layers=text_layers, words=len(tokenizer)), tokenizer)
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
    tokenizer.save_pretrained(folder / "tokenizer")
    captions.tower.half().save_pretrained(folder / "text_encoder")
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
    texts = [_told(rng, drawn, row) for row in range(count)]
    posterior = codec.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    clean = codec.scale(posterior.sample(torch.randn_like(posterior.mean)))
    noisy_part, times = torch.randn_like(clean), torch.randint(noise.steps, (count,))
    prediction = unet(noise.add_noise(clean, noisy_part, times), times, captions(texts)).sample
    return squared_errors(prediction, noise.target(clean, noisy_part, times)).mean()


def _told(rng: np.random.Generator, batch: Batch, row: int) -> str:
    """A caption to learn from: none, without a side, or with one of those that are true."""
    hidden, placed = rng.random(2)
    true = sides(batch.x[row, 0], batch.y[row, 0]) if placed < PLACED else []
    return "" if hidden < DROPPED else caption(batch, row, str(rng.choice(true)) if true else None)


@torch.no_grad()
def judge(unet: UNet2DConditionModel, codec: LatentCodec, captions: Captions, seed: int) -> dict[str, float]:
    """Share of sampled pictures whose object has the colour, the shape, and the side, of the caption."""
    rng = np.random.default_rng(mix("tiny_text_to_image, judged", seed))
    _, drawn = draw_single(rng, count=JUDGED_PICTURES, size=8)
    asked = [str(side) for side in rng.choice(list(DIRECTIONS), size=JUDGED_PICTURES)]
    texts = [caption(drawn, row, asked[row]) for row in range(JUDGED_PICTURES)]
    found = [find(picture) for picture in _sample(unet, codec, captions, texts, seed)]
    hits = [
        (
            each[0].colour == list(COLOURS)[drawn.colour[row, 0]],
            each[0].shape == SHAPES[drawn.shape[row, 0]],
            asked[row] in sides(each[0].x / SIZE, each[0].y / SIZE),
        )
        if each
        else (False, False, False)
        for row, each in enumerate(found)
    ]
    return dict(zip(("colour", "shape", "side"), np.mean(hits, axis=0).round(3).tolist(), strict=True))


def _sample(
    unet: UNet2DConditionModel, codec: LatentCodec, captions: Captions, texts: list[str], seed: int
) -> NDArray[np.uint8]:
    """Pictures of captions, (B, H, W, 3)."""
    states = torch.cat([captions(texts), captions([""] * len(texts))])
    scheduler: Any = DDIMScheduler(**NOISE)
    scheduler.set_timesteps(STEPS)
    latents = torch.randn(len(texts), codec.channels, 8, 8, generator=generator("tiny_text_to_image", seed))
    for t in scheduler.timesteps:
        with_text, without = unet(torch.cat([latents, latents]), t, states).sample.chunk(2)
        latents = scheduler.step(without + SCALE * (with_text - without), t, latents).prev_sample
    return codec.decode(codec.unscale(latents)).permute(0, 2, 3, 1).numpy()
