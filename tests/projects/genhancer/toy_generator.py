"""A generator of a few thousand parameters, for tests."""

from functools import partial
from typing import Any

import torch

from projects.genhancer.denoiser import build_denoiser
from projects.genhancer.model import Reconstructor

ARCHITECTURE: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 40,
    "pooled_projection_dim": 24,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}
PUBLISHED: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
WIDTH, PATCH_WIDTH = 20, 12


def build(**changes: Any) -> Reconstructor:
    """A generator with random weights; changes of the architecture under `architecture`."""
    architecture = ARCHITECTURE | changes.pop("architecture", {})
    recipe = partial(build_denoiser, architecture=architecture, checkpointing=changes.pop("checkpointing", False))
    torch.manual_seed(0)
    return Reconstructor(**{"denoiser": recipe, "width": WIDTH} | changes)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
