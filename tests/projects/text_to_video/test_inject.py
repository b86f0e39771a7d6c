"""Context paths in a frozen UNet: published counts, and bit for bit the frozen output at first."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from projects.text_to_video.inject import INTERFACES, ContextBlock, Interface, conditions, inject, is_new
from tests.projects.text_to_video.t2v_parts import disturb, latents, sd21, texts, tiny_unet

CONTEXT = torch.randn(10, 3, 16, generator=torch.Generator().manual_seed(3))
TIMES = torch.tensor([0, 999] * 5)


def call(unet: Any, context: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
    text = texts().repeat_interleave(5, dim=0)
    noisy = latents().flatten(0, 1)
    return unet(noisy, TIMES, text, cross_attention_kwargs=conditions(context, keep), return_dict=False)[0]


def injected(interface: Interface = "blocks", *, published_init: bool = False) -> Any:
    unet = tiny_unet()
    inject(unet, width=16, interface=interface, published_init=published_init)
    return unet


@pytest.mark.parametrize(("interface", "count"), [("blocks", 211_608_480), ("transformers", 273_629_120)])
def test_published_counts(interface: Interface, count: int) -> None:
    with torch.device("meta"):
        unet: Any = sd21()
        assert sum(each.numel() for each in unet.parameters()) == 865_910_724
        inject(unet, width=1024, interface=interface, published_init=False)
    assert sum(each.numel() for each in unet.parameters() if each.requires_grad) == count
    assert sum(each.numel() for each in unet.parameters() if not each.requires_grad) == 865_910_724
    assert all(is_new(name) == each.requires_grad for name, each in unet.named_parameters())
    blocks = [each for each in unet.modules() if isinstance(each, ContextBlock)]
    assert len(blocks) == (16 if interface == "blocks" else 0)
    for block in blocks:
        width = block.norm1.weight.numel()
        added = sum(each.numel() for name, each in block.named_parameters() if is_new(name))
        assert added == 15 * width**2 + 2063.5 * width


def test_arithmetic_at_published_size() -> None:
    """Operations of a call for one frame, in 10^12: those of the frozen UNet and those of the new paths."""
    counted = []
    with torch.device("meta"):
        unet: Any = sd21()
        inject(unet, width=1024, interface="blocks", published_init=False)
        noisy, time, text = torch.empty(1, 4, 64, 64), torch.zeros(1), torch.empty(1, 77, 1024)
        for context in (None, torch.empty(1, 512, 1024)):
            with FlopCounterMode(display=False) as counter:
                unet(noisy, time, text, cross_attention_kwargs=conditions(context))
            counted.append(counter.get_total_flops() / 1e12)
    assert counted[0] == pytest.approx(0.804, abs=1e-3)
    assert counted[1] - counted[0] == pytest.approx(0.242, abs=1e-3)


@pytest.mark.parametrize("interface", INTERFACES)
def test_at_first_the_output_is_that_of_the_frozen_unet_bit_for_bit(interface: Interface) -> None:
    frozen, unet = call(tiny_unet()), injected(interface)
    assert torch.equal(call(unet), frozen)
    assert torch.equal(call(unet, CONTEXT), frozen)
    assert torch.equal(call(unet, CONTEXT, torch.tensor([True, False] * 5)), frozen)


@pytest.mark.slow  # 4.3 GB of weights
@torch.no_grad()
def test_at_first_the_output_is_that_of_a_frozen_unet_as_large_as_published() -> None:
    """Random weights of Stable Diffusion 2.1's shape, latents of 8 x 8."""
    torch.manual_seed(0)
    unet: Any = sd21()
    noisy, text, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 1024), torch.randn(1, 512, 1024)
    frozen = unet(noisy, 999, text).sample
    inject(unet, width=1024, interface="blocks", published_init=False)
    assert frozen.isfinite().all()
    assert torch.equal(unet(noisy, 999, text).sample, frozen)
    assert torch.equal(unet(noisy, 999, text, cross_attention_kwargs=conditions(context)).sample, frozen)


@pytest.mark.parametrize("interface", INTERFACES)
def test_rows_without_context_stay_those_of_the_frozen_unet(interface: Interface) -> None:
    frozen, unet, keep = call(tiny_unet()), injected(interface), torch.tensor([True, False] * 5)
    disturb(unet)
    assert torch.equal(call(unet), frozen)
    mixed = call(unet, CONTEXT, keep)
    assert torch.equal(mixed[~keep], frozen[~keep])
    torch.testing.assert_close(mixed[keep], call(unet, CONTEXT)[keep])
    assert (mixed[keep] - frozen[keep]).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_the_context_is_read() -> None:
    unet = injected()
    disturb(unet)
    other = CONTEXT.clone()
    other[0] += 1.0
    change = (call(unet, other) - call(unet, CONTEXT)).abs().amax(dim=(1, 2, 3))
    assert change[0] > 1e-3
    assert change[1:].max() < 1e-5


@pytest.mark.parametrize("interface", INTERFACES)
def test_the_published_initialisation_disturbs_the_frozen_unet(interface: Interface) -> None:
    frozen, unet = call(tiny_unet()), injected(interface, published_init=True)
    assert (call(unet, CONTEXT) - frozen).abs().max() > 1e-2
    assert torch.equal(call(unet), frozen)
    if interface == "blocks":
        (block, *_) = [each for each in unet.modules() if isinstance(each, ContextBlock)]
        assert not block.adapter_extra.up.weight.any()
        assert block.attn_extra.to_out[0].weight.any()
        assert block.ff_extra.net[2].weight.any()


@pytest.mark.parametrize("interface", INTERFACES)
def test_checkpointing_gives_the_same_gradients(interface: Interface) -> None:
    plain = injected(interface)
    disturb(plain)
    recomputed = copy.deepcopy(plain)
    recomputed.enable_gradient_checkpointing()
    for unet in (plain, recomputed):
        call(unet, CONTEXT, torch.tensor([True, False] * 5)).square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert (one.grad is not None) == is_new(name)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def test_frozen_layers_may_be_of_another_dtype() -> None:
    unet = tiny_unet().to(torch.bfloat16)
    inject(unet, width=16, interface="blocks", published_init=False)
    disturb(unet)
    assert {each.dtype for each in unet.parameters() if each.requires_grad} == {torch.float32}
    found = unet(
        latents().flatten(0, 1).bfloat16(),
        TIMES,
        texts().repeat_interleave(5, dim=0).bfloat16(),
        cross_attention_kwargs=conditions(CONTEXT),
    ).sample
    assert found.dtype == torch.bfloat16


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.kind\.width=24.*16 wide"):
        inject(tiny_unet(), width=24, interface="transformers", published_init=False)
    with pytest.raises(ValueError, match=r"interface=old: one of blocks, transformers"):
        inject(tiny_unet(), width=16, interface="old", published_init=False)  # type: ignore[arg-type]
