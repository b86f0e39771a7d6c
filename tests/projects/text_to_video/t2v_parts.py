"""Tiny parts for the tests of the kinds: a UNet with random weights, clips and what is drawn for them."""

from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from common.latent.noise import NoiseSchedule
from projects.text_to_video.draws import ClipDraws, draw, stack

C, SIZE, LENGTH, WIDTH = 4, 4, 5, 16  # channels and side of a latent, tokens and width of a text
NOISE: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


def tiny_unet(seed: int = 0) -> UNet2DConditionModel:
    """Two levels with text in both: 6 transformer blocks (the mid one included), 16 and 32 wide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=SIZE,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            norm_num_groups=8,
            use_linear_projection=True,
        )


def sd21() -> UNet2DConditionModel:
    """The UNet of Stable Diffusion 2.1, by its published configuration; build it on the meta device."""
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )


def schedule() -> NoiseSchedule:
    return NoiseSchedule(DDPMScheduler(**NOISE))


def sampler() -> DDIMScheduler:
    return DDIMScheduler(**NOISE)


def latents(clips: int = 2, frames: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(clips, frames, C, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def texts(clips: int = 2, seed: int = 2) -> Tensor:
    return torch.randn(clips, LENGTH, WIDTH, generator=torch.Generator().manual_seed(seed))


def draws(clips: int = 2, frames: int = 5, targets: int = 2, **changes: Tensor) -> ClipDraws:
    """What a training step draws, nothing dropped."""
    shape = (frames, C, SIZE, SIZE)
    drawn = stack(
        [
            draw(0, "test", row, shape=shape, steps=1000, targets=targets, text_dropout=0.0, context_dropout=0.0)
            for row in range(clips)
        ]
    )
    return drawn._replace(**changes)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def disturb(module: torch.nn.Module, scale: float = 0.2) -> None:
    """Moves all that trains away from its initial values, zeros included."""
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=source)
