"""Temporal layers: counts at the published size, the output at first, what trains, and what carries over."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNetMotionModel

from common.latent.unet import blocks
from projects.text_to_video.motion import Motion, TemporalPath, add_motion, paths, predict, read_motion
from tests.projects.text_to_video.t2v_parts import WIDTH, C, disturb, latents, sd21, texts, tiny_unet

T = torch.tensor([999, 300])


def motion_unet(base: Any = None, **changes: Any) -> Any:
    settings = {"frames": 8, "motion": Motion(heads=2), "train_spatial": False, **changes}
    return add_motion(tiny_unet() if base is None else base, **settings)


@pytest.mark.parametrize(
    ("middle", "motion", "whole"), [(False, 417_137_600, 1_283_048_324), (True, 453_209_280, 1_319_120_004)]
)
def test_parameters_of_the_published_size(middle: bool, motion: int, whole: int) -> None:
    with torch.device("meta"):
        base: Any = sd21()
        unet = add_motion(base, frames=64, motion=Motion(middle=middle), train_spatial=False)
    assert base.num_parameters() == 865_910_724
    assert sum(each.numel() for each in unet.parameters() if each.requires_grad) == motion
    assert unet.num_parameters() == whole


@pytest.mark.parametrize("middle", [False, True])
def test_at_first_each_frame_is_as_the_image_model_gives_it(middle: bool) -> None:
    base: Any = tiny_unet()
    unet = motion_unet(base, motion=Motion(heads=2, layers=2, middle=middle))
    assert len(paths(unet)) == 2 + 4 + middle
    noisy, text = latents(), texts()
    with torch.no_grad():
        found = predict(unet, noisy, T, text)
        wanted = torch.stack(
            [base(noisy[:, frame], T, encoder_hidden_states=text).sample for frame in range(noisy.shape[1])], dim=1
        )
        # Of other batch sizes; what is added is exactly zero.
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
        disturb(unet)
        assert (predict(unet, noisy, T, text) - wanted).abs().amax() > 1e-2


def test_frames_of_a_clip_see_one_another_and_no_other_clip() -> None:
    unet = motion_unet()
    disturb(unet)
    noisy, text = latents(), texts()
    with torch.no_grad():
        before = predict(unet, noisy, T, text)
        noisy[0, 3] += 1
        moved = (predict(unet, noisy, T, text) - before).abs().amax(dim=(2, 3, 4))
    assert (moved[0] > 1e-4).all()
    assert (moved[1] == 0).all()


@pytest.mark.parametrize("spatial", [False, True])
def test_the_temporal_layers_train_and_the_others_if_wanted(spatial: bool) -> None:
    trained = {name for name, each in motion_unet(train_spatial=spatial).named_parameters() if each.requires_grad}
    assert any("motion_modules" in name for name in trained)
    assert any("motion_modules" not in name for name in trained) == spatial
    wide = motion_unet(train_spatial=spatial, more=1)
    more = {name for name, each in wide.named_parameters() if each.requires_grad}
    assert more == trained | {"conv_in.weight", "conv_in.bias"}


def test_a_further_channel_counts_for_nothing_at_first() -> None:
    base: Any = tiny_unet()
    unet = motion_unet(base, more=1)
    assert unet.config.in_channels == unet.conv_in.in_channels == C + 1
    assert unet.conv_in.weight[:, C:].abs().amax() == 0
    noisy, text = latents(), texts()
    with torch.no_grad():
        found = predict(unet, torch.cat([noisy, torch.ones_like(noisy[:, :, :1])], dim=2), T, text)
        torch.testing.assert_close(found, predict(motion_unet(base), noisy, T, text), atol=1e-6, rtol=1e-5)


def test_plain_diffusers_reads_what_is_saved(tmp_path: Path) -> None:
    unet = motion_unet(more=1)
    disturb(unet)
    unet.eval().save_pretrained(tmp_path)
    read: Any = UNetMotionModel.from_pretrained(tmp_path)
    assert not paths(read)
    given, text = torch.randn(1, 5, C + 1, 4, 4), texts(1)
    with torch.no_grad():
        wanted = predict(unet, given, T[:1], text)
        assert torch.equal(predict(read, given, T[:1], text), wanted)
        again = add_motion(read, frames=8, motion=Motion(), train_spatial=False, more=1)
        assert again is read
        assert all(isinstance(each, TemporalPath) for each in paths(again))
        assert torch.equal(predict(again, given, T[:1], text), wanted)
    with pytest.raises(ValueError, match="clips of 9 frames, but the UNet is for 8"):
        add_motion(read, frames=9, motion=Motion(), train_spatial=False, more=1)
    with pytest.raises(ValueError, match="has 5 input channels, this kind needs 4"):
        add_motion(read, frames=8, motion=Motion(), train_spatial=False)


def test_memory_format_recomputation_and_compilation_carry_over() -> None:
    base: Any = tiny_unet().to(memory_format=torch.channels_last)
    base.enable_gradient_checkpointing()
    for block in blocks(base):
        block.compile()
    unet = motion_unet(base)
    assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert unet.is_gradient_checkpointing
    assert all(path.gradient_checkpointing for path in paths(unet))
    assert all(block._compiled_call_impl is not None for block in blocks(unet))
    plain = motion_unet()
    assert not plain.is_gradient_checkpointing
    assert all(block._compiled_call_impl is None for block in blocks(plain))


def test_recomputation_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        base: Any = tiny_unet().train()
        if checkpointing:
            base.enable_gradient_checkpointing()
        torch.manual_seed(0)
        unet = motion_unet(base, train_spatial=True)
        disturb(unet)
        for path in paths(unet):
            path.bypass = torch.tensor([True, False])
        predict(unet, latents(), T, texts()).square().mean().backward()
        gradients.append({name: each.grad for name, each in unet.named_parameters()})
    for name, wanted in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], wanted, atol=1e-6, rtol=1e-4, msg=name)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"motion\.head: did you mean heads"):
        read_motion({"head": 8})
    assert read_motion(None) == Motion() == Motion(heads=8, layers=1, middle=False)
    with pytest.raises(ValueError, match="heads=3 does not divide the width 16"):
        motion_unet(motion=Motion(heads=3))
    odd: Any = UNet2DConditionModel(
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
    )
    with pytest.raises(ValueError, match="the UNet has resnet_time_scale_shift=scale_shift"):
        motion_unet(odd)
