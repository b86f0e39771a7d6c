"""FLUX's autoencoder as its authors publish it: one file, `ae.safetensors`, in names of its own."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor

from common.files import digest
from common.weights.source import WeightsError, open_tensors

# What the file does not tell; also in config.json of the form that diffusers reads.
PUBLISHED = {
    "norm_num_groups": 32,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "force_upcast": True,
    "sample_size": 1024,
}
# Parts of names: the authors', then diffusers'. Levels of the decoder count from the other end as well.
RULES = (
    (r"down\.(\d+)\.block\.(\d+)\.", r"down_blocks.\1.resnets.\2."),
    (r"down\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
    (r"up\.(\d+)\.block\.(\d+)\.", r"up_blocks.\1.resnets.\2."),
    (r"up\.(\d+)\.upsample\.", r"up_blocks.\1.upsamplers.0."),
    (r"mid\.block_1\.", r"mid_block.resnets.0."),
    (r"mid\.block_2\.", r"mid_block.resnets.1."),
    (r"mid\.attn_1\.norm\.", r"mid_block.attentions.0.group_norm."),
    (r"mid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
    (r"mid\.attn_1\.proj_out\.", r"mid_block.attentions.0.to_out.0."),
    (r"\.nin_shortcut\.", r".conv_shortcut."),
    (r"coder\.norm_out\.", r"coder.conv_norm_out."),
)


def read_flux_vae(path: Path) -> tuple[AutoencoderKL, str]:
    """The autoencoder of an `ae.safetensors` in float32, and its identity. Its size is read off the tensors.

    Raises:
        WeightsError: no such file, or one of another model.
    """
    handle = open_tensors(path)
    tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a mapping)
    vae = AutoencoderKL(**architecture_of(tensors, path))
    found = vae.load_state_dict(to_diffusers(tensors), strict=False, assign=True)
    for names, fault in ((found.missing_keys, "lacks"), (found.unexpected_keys, "has the unknown")):
        if names:
            raise WeightsError(f"{path} {fault} {sorted(names)[0]} ({len(names)} in all): not FLUX's ae.safetensors")
    return vae.float(), digest(path)


def architecture_of(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Arguments of `AutoencoderKL` for the tensors of an `ae.safetensors`.

    Raises:
        WeightsError: they are of another model.
    """
    try:
        blocks = [re.fullmatch(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight", name) for name in tensors]
        levels = 1 + max(int(block[1]) for block in blocks if block)
        channels = [tensors[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
        latent = tensors["decoder.conv_in.weight"].shape[1]
    except (ValueError, KeyError) as error:
        raise WeightsError(
            f"{path} is not FLUX's ae.safetensors: it has no levels encoder.down.N; for the form of diffusers give "
            "its folder, with config.json"
        ) from error
    return PUBLISHED | {
        "block_out_channels": channels,
        "layers_per_block": 1 + max(int(block[2]) for block in blocks if block),
        "latent_channels": latent,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def to_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by diffusers' names. Attention layers, 1 x 1 convolutions before, become linear."""
    renamed = {_renamed(name, RULES): tensor for name, tensor in tensors.items()}
    linear = {
        name: tensor.flatten(1) if ".attentions." in name and tensor.ndim == 4 else tensor
        for name, tensor in renamed.items()
    }
    return _turned(linear, "up_blocks")


def to_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_diffusers`."""
    rules = [(_pattern(theirs), _template(ours)) for ours, theirs in RULES]
    return {
        _renamed(name, rules): tensor[..., None, None] if ".attentions." in name and tensor.ndim == 2 else tensor
        for name, tensor in _turned(tensors, "up_blocks").items()
    }


def _turned(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The same with the levels of the decoder in reverse order."""
    pattern = re.compile(rf"(decoder\.{part}\.)(\d+)\.")
    levels = 1 + max((int(found[2]) for name in tensors if (found := pattern.match(name))), default=0)
    return {
        pattern.sub(lambda found: f"{found[1]}{levels - 1 - int(found[2])}.", name): tensor
        for name, tensor in tensors.items()
    }


def _renamed(name: str, rules: Any) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _pattern(template: str) -> str:
    """The pattern that finds what a template of RULES writes."""
    group = r"([qkv])" if r"to_\1" in template else r"(\d+)"
    return re.sub(r"\\\\\d", lambda _: group, re.escape(template))


def _template(pattern: str) -> str:
    """The template that writes what a pattern of RULES finds."""
    numbers = iter(range(1, 10))
    return re.sub(r"\([^)]*\)", lambda _: rf"\{next(numbers)}", pattern).replace(r"\.", ".")
