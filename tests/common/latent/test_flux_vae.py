"""FLUX's autoencoder in the file of its authors and in the form of diffusers: the same numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.latent.flux_vae import PUBLISHED, architecture_of, to_diffusers, to_original
from common.latent.vae import load_codec
from common.weights.source import WeightsError

SMALL = PUBLISHED | {
    "block_out_channels": [32, 64, 64],
    "layers_per_block": 1,
    "latent_channels": 8,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}
TYPES = ("DownEncoderBlock2D", "UpDecoderBlock2D")
# Every tensor beside the levels, as the authors' module names it.
OUTSIDE_LEVELS = [
    "{side}.conv_in",
    *("{side}.mid." + name for name in ("block_1.norm1", "block_1.conv1", "block_1.norm2", "block_1.conv2")),
    *("{side}.mid." + name for name in ("block_2.norm1", "block_2.conv1", "block_2.norm2", "block_2.conv2")),
    *("{side}.mid.attn_1." + name for name in ("norm", "q", "k", "v", "proj_out")),
    "{side}.norm_out",
    "{side}.conv_out",
]


def random_vae(architecture: dict[str, Any]) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(**architecture).eval()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small autoencoder in the authors' names."""
    path = tmp_path_factory.mktemp("flux") / "ae.safetensors"
    tensors = to_original(random_vae(SMALL).state_dict())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def pictures() -> Tensor:
    return torch.randint(256, (2, 3, 32, 48), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_names_are_those_of_the_authors(original: Path) -> None:
    found = {name.removesuffix(".weight").removesuffix(".bias") for name in load_file(original)}
    blocks = ("norm1", "conv1", "norm2", "conv2")
    expected = {name.format(side=side) for side in ("encoder", "decoder") for name in OUTSIDE_LEVELS}
    expected |= {f"encoder.down.{level}.block.0.{name}" for level in range(3) for name in blocks}
    expected |= {
        f"decoder.up.{level}.block.{block}.{name}" for level in range(3) for block in (0, 1) for name in blocks
    }
    expected |= {"encoder.down.1.block.0.nin_shortcut", "decoder.up.0.block.0.nin_shortcut"}  # where channels change
    expected |= {f"encoder.down.{level}.downsample.conv" for level in (0, 1)}
    expected |= {f"decoder.up.{level}.upsample.conv" for level in (1, 2)}
    assert found == expected


def test_conversion_is_that_of_diffusers_and_goes_both_ways(original: Path) -> None:
    tensors = load_file(original)
    ours, theirs = to_diffusers(tensors), convert_ldm_vae_checkpoint(dict(tensors), SMALL)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name].reshape(ours[name].shape)) for name in ours)
    state = random_vae(SMALL).state_dict()
    assert all(torch.equal(ours[name], state[name]) for name in state)
    back = to_original(ours)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_the_file_gives_what_the_folder_of_diffusers_gives(original: Path, tmp_path: Path) -> None:
    random_vae(SMALL).save_pretrained(tmp_path / "vae")
    file, folder = load_codec(weights=str(original)), load_codec(weights=str(tmp_path))
    assert (file.channels, file.factor, file.scaling_factor, file.shift_factor) == (8, 4, 0.3611, 0.1159)
    assert (folder.channels, folder.factor, folder.scaling_factor, folder.shift_factor) == (8, 4, 0.3611, 0.1159)
    assert file.config.norm_num_groups == 32
    found, expected = file.encode(pictures()), folder.encode(pictures())
    assert found.mean.shape == (2, 8, 8, 12)
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.logvar, expected.logvar)
    assert torch.equal(file.decode(found.mean), folder.decode(expected.mean))


def test_scaled_latents_are_those_of_the_paper(original: Path) -> None:
    codec = load_codec(weights=str(original), encoder_only=True)
    mean = codec.encode(pictures()).mean
    torch.testing.assert_close(codec.scale(mean), 0.3611 * (mean - 0.1159))
    torch.testing.assert_close(codec.unscale(codec.scale(mean)), mean)


def test_published_size() -> None:
    published = PUBLISHED | {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 16}
    published |= {key: [kind] * 4 for key, kind in zip(("down_block_types", "up_block_types"), TYPES, strict=True)}
    with torch.device("meta"):
        vae = AutoencoderKL(**published)
        tensors = to_original(vae.state_dict())
        assert architecture_of(tensors, Path("ae.safetensors")) == published
        codec = load_codec(weights="random", architecture=published, encoder_only=True)
    assert sum(each.numel() for each in vae.parameters()) == 83_819_683
    assert len(tensors) == 244
    assert (codec.channels, codec.factor) == (16, 8)


def test_other_files_are_refused(original: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is not there"):
        load_codec(weights=str(tmp_path / "ae.safetensors"))
    save_file({name: each.clone() for name, each in random_vae(SMALL).state_dict().items()}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="for the form of diffusers give its folder"):
        load_codec(weights=str(tmp_path / "a.safetensors"))
    tensors = load_file(original)
    save_file(tensors | {"decoder.up.0.attn.0.q.weight": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"has the unknown decoder\.up"):
        load_codec(weights=str(tmp_path / "b.safetensors"))
    del tensors["encoder.mid.attn_1.q.weight"]
    save_file(tensors, tmp_path / "c.safetensors")
    with pytest.raises(WeightsError, match=r"lacks encoder\.mid_block\.attentions"):
        load_codec(weights=str(tmp_path / "c.safetensors"))
    (tmp_path / "d.safetensors").write_bytes(b"no such file")
    with pytest.raises(WeightsError, match="not a whole file of tensors"):
        load_codec(weights=str(tmp_path / "d.safetensors"))
