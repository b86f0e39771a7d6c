"""A text-to-image UNet from a folder or from numbers, and the manner it computes in."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from common.latent.unet import blocks, build_unet2d, channels_of, unet_folder
from common.weights.source import WeightsError

SMALL: dict[str, Any] = {
    "sample_size": 4,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def build(**changes: Any) -> Any:
    return build_unet2d(**{"weights": "random", "architecture": SMALL, **changes})


@pytest.mark.parametrize("inside", ["unet", "."], ids=["pipeline", "unet"])
def test_a_folder_is_read_as_it_is(tmp_path: Path, inside: str) -> None:
    written: Any = UNet2DConditionModel(**SMALL, in_channels=7)
    written.save_pretrained(tmp_path / inside)
    read: Any = build(weights=str(tmp_path), architecture=None, dtype="bfloat16")
    assert unet_folder(str(tmp_path)) == tmp_path / inside
    assert channels_of(read) == (7, 4)
    assert read.training
    assert all(torch.equal(value, written.state_dict()[name].bfloat16()) for name, value in read.state_dict().items())
    with pytest.raises(WeightsError, match="no such folder"):
        build(weights=str(tmp_path / "none"), architecture=None)


def test_random_weights_follow_the_seed_and_none_stands_for_the_default() -> None:
    before = torch.random.get_rng_state()
    first, same = build(), build(architecture={**SMALL, "in_channels": None})
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.conv_in.weight, same.conv_in.weight)
    assert not torch.equal(first.conv_in.weight, build(seed=1).conv_in.weight)


def test_the_manner_is_as_asked() -> None:
    unet = build(checkpointing=True, channels_last=True, compile=True)
    assert unet.is_gradient_checkpointing
    assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(block._compiled_call_impl is not None for block in blocks(unet))
    inside = [id(each) for block in blocks(unet) for each in block.modules()]
    assert len(inside) == len(set(inside))  # none inside another


def test_an_architecture_is_needed_and_its_names_are_known() -> None:
    with pytest.raises(ValueError, match=r"needs unet\.architecture"):
        build(architecture=None)
    with pytest.raises(ValueError, match=r"layer_per_block: did you mean layers_per_block"):
        build(architecture={**SMALL, "layer_per_block": 2})
