"""Published states: names, what matches, what does not, what is refused."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from common.weights.source import WeightsError
from projects.text_to_video.compat import CONDITIONER, FROZEN, PATHS, load_published, published_name
from projects.text_to_video.conditioner import Conditioner
from projects.text_to_video.distributed import Distributed
from projects.text_to_video.inject import Interface, inject
from tests.projects.text_to_video.t2v_parts import disturb, tiny_unet

TINY: dict[str, Any] = {"frames": 6, "patch": 2, "depth": 1, "queries": 4, "heads": 2, "dim_head": 8, "width": 16}

# What a published state names, in SD 2.1's first block with text and in the conditioner.
NAMES = [
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.weight",
    "down_blocks.0.attentions.1.transformer_blocks.0.norm_extra.weight",
    "down_blocks.0.attentions.1.transformer_blocks.0.attn_extra.to_out.0.bias",
    "down_blocks.0.attentions.1.transformer_blocks.0.norm_ff_extra.bias",
    "down_blocks.0.attentions.1.transformer_blocks.0.ff_extra.net.0.proj.weight",
    "down_blocks.0.attentions.1.transformer_blocks.0.adapter_ffn_extra.D_fc1.weight",
    "down_blocks.0.attentions.1.transformer_blocks.0.adapter_ffn_extra.D_fc2.bias",
    "conditioner.patch_embedding.proj.weight",
    "conditioner.latents",
    "conditioner.frame_pos_emb",
    "conditioner.context_time_emb.weight",
    "conditioner.frame_emb.weight",
    "conditioner.layers.0.0.norm_media.weight",
    "conditioner.layers.0.0.norm_latents.bias",
    "conditioner.layers.0.0.to_q.bias",
    "conditioner.layers.0.0.to_kv.weight",
    "conditioner.layers.0.0.to_out.weight",
    "conditioner.layers.0.1.0.weight",
    "conditioner.layers.0.1.1.weight",
    "conditioner.layers.0.1.3.weight",
    "conditioner.norm.bias",
]
OLD = [
    "down_blocks.0.attentions.0.norm.weight",
    "down_blocks.0.extra_attn_1.proj_out.weight",
    "mid_block.extra_attn.transformer_blocks.0.attn2.to_k.weight",
    "up_blocks.1.extra_attn_2.proj_in.weight",
]


def parts(interface: Interface = "blocks", **changes: Any) -> tuple[Any, Conditioner]:
    unet, conditioner = tiny_unet(), Conditioner(channels=4, **{**TINY, **changes})
    inject(unet, width=16, interface=interface, published_init=False)
    disturb(unet)
    return unet, conditioner


def state(unet: Any, conditioner: Conditioner) -> dict[str, Tensor]:
    """As a published state names it, in the dtype of its frozen part."""
    ours = {**unet.state_dict(), **{f"conditioner.{name}": each for name, each in conditioner.state_dict().items()}}
    return {published_name(name): each.half() for name, each in ours.items()}


def save(folder: Path, tensors: dict[str, Tensor]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    return str(folder)


@pytest.mark.parametrize("interface", ["blocks", "transformers"])
def test_a_whole_state_is_read(tmp_path: Path, interface: Interface) -> None:
    source = parts(interface)
    tensors = state(*source)
    names = NAMES if interface == "blocks" else OLD
    wanted = [name.replace("attentions.1", "attentions.0") for name in names]  # tiny: one a block on the way down
    assert [name for name in wanted if name not in tensors] == []
    torch.manual_seed(1)
    unet, conditioner = tiny_unet(seed=1), Conditioner(channels=4, **TINY)
    inject(unet, width=16, interface=interface, published_init=False)
    report = load_published(save(tmp_path, tensors), unet=unet, conditioner=conditioner)
    assert not report.unknown
    assert not any(part.missing or part.shapes for part in report.parts.values())
    for new, old in zip((unet, conditioner), source, strict=True):
        for one, other in zip(new.parameters(), old.parameters(), strict=True):
            assert torch.equal(one, other.half().float())


def test_what_matches_and_what_does_not_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unet, conditioner = parts()
    tensors = state(unet, conditioner)
    tensors["conditioner.latents"] = torch.zeros(7, 16)
    tensors["conditioner.media_pos_emb"] = tensors.pop("conditioner.frame_pos_emb")
    tensors["adapter_context_extra.weight"] = torch.zeros(1)
    del tensors["conditioner.norm.bias"]
    before = conditioner.queries.clone()
    with caplog.at_level(logging.INFO):
        report = load_published(save(tmp_path, tensors), unet=unet, conditioner=conditioner)
    found = report.parts[CONDITIONER]
    assert found.missing == ["conditioner.norm.bias"]
    assert found.shapes == ["conditioner.queries (7, 16) instead of (4, 16)"]
    assert "conditioner.frame_position" in found.matched
    assert report.unknown == ["adapter_context_extra.weight"]
    assert torch.equal(conditioner.queries, before)
    total = len(list(conditioner.parameters()))
    assert f"conditioner: {total - 2} of {total} parameters read" in caplog.text
    assert "not used: adapter_context_extra.weight" in caplog.text


@pytest.mark.parametrize("part", [FROZEN, PATHS, CONDITIONER])
def test_a_part_of_which_nothing_fits_is_refused(tmp_path: Path, part: str) -> None:
    unet, conditioner = parts()
    belongs = {
        FROZEN: lambda name: "extra" not in name and not name.startswith("conditioner"),
        PATHS: lambda name: "extra" in name,
        CONDITIONER: lambda name: name.startswith("conditioner"),
    }[part]
    tensors = {name: each for name, each in state(unet, conditioner).items() if not belongs(name)}
    with pytest.raises(WeightsError, match=f"fits the {part}"):
        load_published(save(tmp_path, tensors), unet=unet, conditioner=conditioner)


def test_files_that_are_not_there_or_broken_are_refused(tmp_path: Path) -> None:
    unet, conditioner = parts()
    with pytest.raises(WeightsError, match=r"model\.kind\.published wants the folder of a whole UNet"):
        load_published(str(tmp_path), unet=unet, conditioner=conditioner)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(WeightsError, match="copy it again"):
        load_published(str(tmp_path), unet=unet, conditioner=conditioner)


def test_a_kind_begins_with_a_published_state(tmp_path: Path) -> None:
    unet, conditioner = parts()
    folder = save(tmp_path, state(unet, conditioner))
    kind = Distributed(unet=lambda: tiny_unet(seed=1), targets=2, published=folder, **TINY)
    assert torch.equal(kind.conditioner.queries, conditioner.queries.half().float())
    assert torch.equal(kind.unet.conv_in.weight, unet.conv_in.weight.half().float())
