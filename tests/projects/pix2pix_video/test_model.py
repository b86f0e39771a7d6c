"""The UNet with a history: its inputs, where its weights come from, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from common.latent.unet import blocks
from common.weights.source import WeightsError
from projects.pix2pix_video.model import EditModel, build_unet
from tests.projects.pix2pix_video.parts import UNET, C, inputs, tiny_unet


def build(**changes: Any) -> Any:
    return build_unet(**{"weights": "random", "architecture": UNET, "history": 3, **changes})


def test_the_input_is_the_noisy_latent_and_the_history_oldest_first() -> None:
    unet: Any = build()
    assert unet.config.in_channels == unet.conv_in.in_channels == C + 3 * C
    noisy, history, t, text = inputs(2, 3)
    model = EditModel(unet=unet).eval()
    assert model.history == 3
    sample = torch.cat([noisy, history[:, 0], history[:, 1], history[:, 2]], dim=1)
    wanted = unet(sample, t, encoder_hidden_states=text).sample
    torch.testing.assert_close(model(noisy, history, t, text), wanted)
    half = model(noisy, history.half(), t, text.half())  # as caches hold them
    torch.testing.assert_close(half, wanted, atol=1e-2, rtol=1e-2)
    assert half.dtype == torch.float32


def test_random_weights_follow_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first, same, other = build(seed=0), build(seed=0), build(seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.conv_in.weight, same.conv_in.weight)
    assert not torch.equal(first.conv_in.weight, other.conv_in.weight)


@pytest.mark.parametrize("whole", [True, False], ids=["pipeline", "unet"])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_published_weights_are_read_whole(tmp_path: Path, whole: bool, safe: bool) -> None:
    unet: Any = tiny_unet(in_channels=C + 2 * C)
    unet.save_pretrained(tmp_path / "unet" if whole else tmp_path, safe_serialization=safe)
    read: Any = build_unet(weights=str(tmp_path), history=2, dtype="bfloat16")
    assert read.training
    for name, value in unet.state_dict().items():
        assert torch.equal(read.state_dict()[name], value.bfloat16()), name


def test_a_bin_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    tiny_unet(in_channels=8).save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": print}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="not whole files of the UNet"):
        build_unet(weights=str(tmp_path), history=1)


def test_a_damaged_file_and_one_of_another_architecture_are_refused(tmp_path: Path) -> None:
    tiny_unet(in_channels=8).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"cross_attention_dim": 8', '"cross_attention_dim": 12'))
    with pytest.raises(WeightsError, match="not whole files of the UNet"):
        build_unet(weights=str(tmp_path), history=1)
    config.write_text(text)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not whole files of the UNet"):
        build_unet(weights=str(tmp_path), history=1)


def test_other_channels_are_refused_with_the_command_that_widens(tmp_path: Path) -> None:
    tiny_unet(in_channels=8).save_pretrained(tmp_path / "unet")
    message = r"has 8 input channels, history=20 needs 84;.*task=widen_unet task.source=.* task.history=20"
    with pytest.raises(WeightsError, match=message):
        build_unet(weights=str(tmp_path), history=20)
    build_unet(weights=str(tmp_path), history=1)  # the single-image method


def test_missing_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such folder"):
        build_unet(weights=str(tmp_path / "none"), history=1)
    with pytest.raises(WeightsError, match="hf download some/model"):
        build_unet(weights="some/model", history=1)
    with pytest.raises(WeightsError, match=r"neither unet/config\.json nor config\.json"):
        build_unet(weights=str(tmp_path), history=1)
    unet = tiny_unet(in_channels=8)
    unet.save_config(tmp_path)
    with pytest.raises(WeightsError, match=r"neither diffusion_pytorch_model\.safetensors nor \.bin"):
        build_unet(weights=str(tmp_path), history=1)
    unet.conv_out = nn.Identity()  # type: ignore[attr-defined]
    unet.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"lacks 2 parameters .*conv_out\.bias"):
        build_unet(weights=str(tmp_path), history=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"history": 0}, "at least one frame"),
        ({"architecture": None}, "needs unet.architecture"),
        ({"architecture": {**UNET, "in_channels": 8}}, "in_channels=8, but history=3 makes it 16"),
        ({"architecture": {**UNET, "layer_per_block": 2}}, "did you mean layers_per_block"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_checkpointing_and_memory_format_change_no_number() -> None:
    arguments = inputs(2, 3)
    plain = EditModel(unet=build())
    other = EditModel(unet=build(checkpointing=True, channels_last=True))
    assert other.unet.is_gradient_checkpointing
    assert other.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    for model in (plain, other):
        model(*arguments).square().mean().backward()
    torch.testing.assert_close(other(*arguments), plain(*arguments))
    torch.testing.assert_close(other.unet.conv_in.weight.grad, plain.unet.conv_in.weight.grad)


def test_each_block_is_compiled_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    unet = build(compile=True)
    kinds = {type(each).__name__ for each in compiled}
    assert kinds == {"BasicTransformerBlock", "ResnetBlock2D"}
    assert compiled == blocks(unet)


def test_the_published_size_has_the_published_blocks() -> None:
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(in_channels=8, cross_attention_dim=768)
    assert len(blocks(unet)) == 16 + 22
    inside = sum(parameter.numel() for block in blocks(unet) for parameter in block.parameters())
    assert inside > 0.9 * unet.num_parameters()
