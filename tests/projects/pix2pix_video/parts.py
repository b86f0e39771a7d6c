"""Tiny parts of a diffusers pipeline with random weights, each as large as its tests need."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel

C, WIDTH, TOKENS = 4, 8, 5  # latent channels, width of the text states, text tokens
UNET: dict[str, Any] = {
    "sample_size": 8,
    "out_channels": C,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def tiny_unet(*, in_channels: int, seed: int = 0) -> UNet2DConditionModel:
    """A UNet in eval mode whose weights are all random, biases and norms too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet: Any = UNet2DConditionModel(**UNET, in_channels=in_channels)
        with torch.no_grad():
            for parameter in unet.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return unet.eval()


def inputs(rows: int, history: int, *, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Noisy latents, history, timesteps and text states of some rows."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, C, 8, 8, generator=generator),
        3 * torch.randn(rows, history, C, 8, 8, generator=generator),
        torch.randint(1000, (rows,), generator=generator),
        torch.randn(rows, TOKENS, WIDTH, generator=generator),
    )
