"""The names of FLUX's own code: diffusers' converter brings every tensor back."""

from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

from projects.genhancer.flux_names import published_names

PUBLISHED: dict[str, Any] = {  # the converter knows this width alone
    "num_layers": 2,
    "num_single_layers": 2,
    "guidance_embeds": True,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
}


def test_there_and_back() -> None:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in FluxTransformer2DModel(**PUBLISHED).state_dict().items()}
    # Rows alone are joined and split, so one column tells where each row goes.
    source = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape[:1], generator=source) for name, shape in shapes.items()}
    renamed = published_names(state)
    assert renamed["double_blocks.1.img_attn.qkv.weight"].shape == (3 * 3072,)
    assert renamed["single_blocks.0.linear1.bias"].shape == (3 * 3072 + 4 * 3072,)
    assert len(renamed) < len(state)
    back = convert_flux_transformer_checkpoint_to_diffusers(dict(renamed))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
