"""Widening: counts, the same output whatever the older frames show, and files that plain diffusers reads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from common.weights.source import WeightsError
from launchers.command import compose, run_task
from projects.pix2pix_video.model import EditModel, build_unet, widen
from projects.pix2pix_video.widen_unet import widen_unet
from tests.projects.pix2pix_video.parts import C, inputs, tiny_unet

PUBLISHED: dict[str, Any] = {"sample_size": 64, "in_channels": 8, "cross_attention_dim": 768, "attention_head_dim": 8}
COUNTS = {8: 859_532_484, 84: 859_751_364}


def test_parameters_of_the_published_size() -> None:
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**PUBLISHED)
    assert unet.num_parameters() == COUNTS[8]
    assert sum(each.numel() for each in unet.conv_in.parameters()) == 23_360
    assert widen(unet, history=20) is unet
    assert unet.num_parameters() == COUNTS[84]
    assert sum(each.numel() for each in unet.conv_in.parameters()) == 242_240
    assert unet.config.in_channels == unet.conv_in.in_channels == 84


@pytest.mark.parametrize("history", [1, 2, 20])
def test_only_the_newest_frame_is_seen_and_as_before(history: int) -> None:
    before, after = tiny_unet(in_channels=2 * C), tiny_unet(in_channels=2 * C)
    model = EditModel(unet=widen(after, history=history))
    noisy, frames, t, text = inputs(3, history)
    with torch.no_grad():
        wanted = EditModel(unet=before)(noisy, frames[:, -1:], t, text)
        # The added columns are zeros; the order of sums in the first convolution is the only difference.
        torch.testing.assert_close(model(noisy, frames, t, text), wanted, atol=1e-6, rtol=1e-5)
        frames[:, :-1] = 1000 * torch.randn_like(frames[:, :-1])
        torch.testing.assert_close(model(noisy, frames, t, text), wanted, atol=1e-6, rtol=1e-5)
        other = model(noisy, frames.roll(1, dims=0), t, text)  # the newest frame of another row
        assert (other - wanted).abs().amax() > 1e-2
    assert torch.equal(model.unet.conv_in.bias, before.conv_in.bias)  # type: ignore[attr-defined]


def test_a_text_to_image_base_sees_no_frame_yet() -> None:
    before, after = tiny_unet(in_channels=C), tiny_unet(in_channels=C)
    model = EditModel(unet=widen(after, history=2))
    noisy, frames, t, text = inputs(3, 2)
    with torch.no_grad():
        wanted = before(noisy, t, encoder_hidden_states=text).sample  # type: ignore[operator]
        torch.testing.assert_close(model(noisy, frames, t, text), wanted, atol=1e-6, rtol=1e-5)
    model(noisy, frames, t, text).square().mean().backward()
    assert model.unet.conv_in.weight.grad[:, C:].abs().amax() > 0  # but it can learn to


def test_what_is_wide_already_is_refused() -> None:
    with pytest.raises(ValueError, match=r"12 input channels cannot be widened.* 4 \(text to image\) or 8"):
        widen(tiny_unet(in_channels=3 * C), history=20)
    with pytest.raises(ValueError, match="at least one frame"):
        widen(tiny_unet(in_channels=2 * C), history=0)


def test_the_task_writes_what_plain_diffusers_reads(tmp_path: Path) -> None:
    base, target = tmp_path / "base", tmp_path / "wide"
    tiny_unet(in_channels=2 * C).save_pretrained(base / "unet")
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    where = ("paths.run=.", f"task.source='{base}'", f"task.target='{target}'")
    run_task(compose("task=widen_unet", *where, config_name="prepare"))
    assert {path: path.read_bytes() for path in base.rglob("*") if path.is_file()} == before
    plain: Any = UNet2DConditionModel.from_pretrained(target, subfolder="unet")
    assert plain.config.in_channels == plain.conv_in.in_channels == 84
    wanted = widen(tiny_unet(in_channels=2 * C), history=20).state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(value, wanted[name]) for name, value in plain.state_dict().items())
    assert build_unet(weights=str(target), history=20).config.in_channels == 84  # type: ignore[attr-defined]

    figures = widen_unet(source=str(base), target=str(target), history=20)  # again: nothing to do
    assert (figures["old_in_channels"], figures["in_channels"]) == (8, 84)
    assert figures["parameters"] - figures["old_parameters"] == 76 * 8 * 9
    with pytest.raises(ValueError, match="made from something else"):
        widen_unet(source=str(base), target=str(target), history=5)
    with pytest.raises(WeightsError, match="no such folder"):
        widen_unet(source=str(tmp_path / "none"), target=str(tmp_path / "x"), history=20)


def test_channels_that_are_assigned_would_not_be_saved(tmp_path: Path) -> None:
    """Why the task registers them: assigning leaves 8 in the file, and loading fails."""
    unet: Any = widen(tiny_unet(in_channels=2 * C), history=20)
    unet.register_to_config(in_channels=8)
    unet.config.in_channels = 84
    unet.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="not whole files of the UNet"):
        build_unet(weights=str(tmp_path), history=20)


@pytest.mark.slow
def test_the_published_size_is_exact_too(tmp_path: Path) -> None:
    """Random weights in bfloat16: the widened UNet, saved and loaded, equals the one with 8 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        try:
            before: Any = UNet2DConditionModel(**PUBLISHED)
        finally:
            torch.set_default_dtype(torch.float32)
    before.eval().save_pretrained(tmp_path / "base" / "unet")
    generator = torch.Generator().manual_seed(1)
    noisy, frames = (torch.randn(shape, generator=generator) for shape in ((1, 4, 8, 8), (1, 20, 4, 8, 8)))
    t, text = torch.tensor([500]), torch.randn(1, 77, 768, generator=generator)
    with torch.no_grad():
        wanted = EditModel(unet=before)(noisy, frames[:, -1:], t, text)
    del before
    figures = widen_unet(source=str(tmp_path / "base"), target=str(tmp_path / "wide"), history=20)
    assert (figures["old_parameters"], figures["parameters"]) == (COUNTS[8], COUNTS[84])
    after: Any = UNet2DConditionModel.from_pretrained(tmp_path / "wide", subfolder="unet", torch_dtype=torch.bfloat16)
    assert after.config.in_channels == 84
    with torch.no_grad():
        found = EditModel(unet=after.eval())(noisy, frames, t, text)
    # bfloat16 rounds sums to 8 bits; the first convolution adds zeros in another order
    torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-2)
    assert wanted.std() > 0.1
