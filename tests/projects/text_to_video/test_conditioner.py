"""The conditioner: published counts, keys and values shared by targets, causality."""

from typing import Any

import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from projects.text_to_video.conditioner import Conditioner, grid_positions

PUBLISHED: dict[str, Any] = {
    "channels": 4,
    "frames": 64,
    "patch": 8,
    "queries": 512,
    "heads": 16,
    "dim_head": 256,
    "width": 1024,
}
TINY: dict[str, Any] = {
    "channels": 4,
    "frames": 6,
    "patch": 2,
    "depth": 2,
    "queries": 3,
    "heads": 2,
    "dim_head": 8,
    "width": 16,
}
TIME = torch.tensor([7, 400])


def conditioner(**changes: Any) -> Conditioner:
    torch.manual_seed(0)
    return Conditioner(**{**TINY, **changes})


def clips(frames: int = 5) -> Tensor:
    return torch.randn(2, frames, 4, 4, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("depth", "count"), [(2, 52_315_136), (12, 304_167_936), (20, 505_650_176)])
def test_published_counts(depth: int, count: int) -> None:
    with torch.device("meta"):
        whole = Conditioner(depth=depth, **PUBLISHED)
        extended = Conditioner(depth=depth, level_token=True, **PUBLISHED)
    assert sum(each.numel() for each in whole.parameters()) == count
    assert sum(each.numel() for each in extended.parameters()) == count + 1024**2 + 1024


@pytest.mark.parametrize(("targets", "tera"), [(1, 2.666), (4, 6.534), (8, 11.690)])
def test_arithmetic_at_published_size(targets: int, tera: float) -> None:
    """Operations of a call, in 10^12: four targets cost 2.5 times what one does, since they share the media."""
    with torch.device("meta"):
        model = Conditioner(depth=20, **PUBLISHED)
        seen, time = torch.empty(1, 64, 4, 64, 64), torch.zeros(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            model(seen, torch.zeros(1, targets, dtype=torch.int64), time=time)
    assert counter.get_total_flops() / 1e12 == pytest.approx(tera, abs=1e-3)


def test_targets_that_share_keys_and_values_equal_separate_calls() -> None:
    model, targets = conditioner(), torch.tensor([[0, 3, 4], [2, 1, 0]])
    together = model(clips(), targets, time=TIME)
    for number in range(3):
        alone = model(clips(), targets[:, number : number + 1], time=TIME)
        torch.testing.assert_close(together[:, number : number + 1], alone, atol=1e-5, rtol=1e-5)
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-3  # the target's token is read
    torch.testing.assert_close(model(clips(), targets, time=TIME, chunk=2), together, atol=1e-5, rtol=1e-5)


def test_the_target_may_be_added_to_the_queries() -> None:
    model, targets = conditioner(target_in_queries=True), torch.tensor([[0, 3, 4], [2, 1, 0]])
    together = model(clips(), targets, time=TIME)
    for number in range(3):
        alone = model(clips(), targets[:, number : number + 1], time=TIME)
        torch.testing.assert_close(together[:, number : number + 1], alone, atol=1e-5, rtol=1e-5)
    plain = conditioner()
    plain.load_state_dict(model.state_dict())  # the same parameters
    assert (together - plain(clips(), targets, time=TIME)).abs().max() > 1e-2
    with pytest.raises(ValueError, match=r"target_in_queries=true needs model\.kind\.target_token"):
        conditioner(target_token=False, target_in_queries=True)


def test_keys_and_values_of_the_media_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = conditioner(), []
    inner = model.layers[0].attention.to_kv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    model(clips(), torch.tensor([[0, 3, 4], [2, 1, 0]]), time=TIME, chunk=1)
    inner.remove()
    patches = 5 * 2 * 3
    assert [tuple(shape[:2]) for shape in seen].count((2, patches + 1)) == 1  # with the token of the time
    assert sum(shape[0] * shape[1] for shape in seen) == 2 * (patches + 1) + 6 * (1 + 3)


def test_the_sum_is_attention_as_it_is_written() -> None:
    """One layer against softmax over all keys at once."""
    model = conditioner(depth=1)
    layer, latents, media, own = model.layers[0], torch.randn(1, 1, 3, 16), torch.randn(1, 5, 16), torch.randn(1, 1, 16)
    part = layer.attention
    keys = torch.cat([part.norm_media(torch.cat([media, own], dim=1)), part.norm_latents(latents[0])], dim=1)
    key, value = (each.view(-1, 2, 8).transpose(0, 1) for each in part.to_kv(keys[0]).chunk(2, dim=-1))
    query = part.to_q(part.norm_latents(latents[0, 0])).view(-1, 2, 8).transpose(0, 1)
    read = ((query @ key.transpose(1, 2) / 8**0.5).softmax(dim=-1) @ value).transpose(0, 1).flatten(1)
    wanted = latents[0, 0] + part.to_out(read)
    wanted = wanted + layer.feed_forward(wanted)
    found = layer(latents, media, own.unsqueeze(1), None, None)
    torch.testing.assert_close(found[0, 0], wanted, atol=1e-5, rtol=1e-5)


def test_checkpointing_changes_nothing() -> None:
    targets, grads = torch.tensor([[0, 3], [2, 1]]), []
    for checkpointing in (False, True):
        model = conditioner(checkpointing=checkpointing)
        model(clips(), targets, time=TIME).square().sum().backward()
        grads.append([each.grad for each in model.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_frames_from_the_target_on_are_not_seen() -> None:
    """The gradient is exactly 0, not only small."""
    model, seen = conditioner(), clips().requires_grad_()
    targets = torch.tensor([[1, 4], [3, 0]])
    found = model(seen, targets, time=TIME, causal=True)
    for row in range(2):
        for number in range(2):
            (grad,) = torch.autograd.grad(found[row, number].square().sum(), seen, retain_graph=True)
            target = int(targets[row, number])
            assert torch.equal(grad[row, target:], torch.zeros_like(grad[row, target:]))
            assert all(float(frame.abs().max()) > 0 for frame in grad[row, :target])
            assert not grad[1 - row].any()
    assert found.isfinite().all()  # the target without any frame before it included


def test_hiding_later_frames_equals_leaving_them_out() -> None:
    model = conditioner()
    found = model(clips(), torch.tensor([[3], [3]]), time=TIME, causal=True)
    cut = model(clips()[:, :3], torch.tensor([[3], [3]]), time=TIME)
    torch.testing.assert_close(found, cut, atol=1e-5, rtol=1e-5)


def test_tokens_that_are_switched_off() -> None:
    model = conditioner(time_token=False, target_token=False, level_token=True)
    targets = torch.tensor([[0, 4], [0, 4]])
    quiet, loud = (model(clips(), targets, level=torch.full((2,), level)) for level in (0.1, 0.9))
    torch.testing.assert_close(quiet[:, 0], quiet[:, 1])
    assert (quiet - loud).abs().max() > 1e-4


def test_positions_of_patches() -> None:
    table = get_2d_sincos_pos_embed(16, 3, base_size=3, output_type="pt")
    torch.testing.assert_close(grid_positions(16, 3, 3), table.float(), atol=1e-5, rtol=1e-5)
    assert grid_positions(16, 2, 3).shape == (6, 16)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"7 frames, but model\.kind\.frames=6"):
        conditioner()(clips(7), torch.tensor([[0], [0]]), time=TIME)
    with pytest.raises(ValueError, match=r"model\.kind\.patch=4"):
        conditioner(patch=4)(clips(), torch.tensor([[0], [0]]), time=TIME)
    with pytest.raises(ValueError, match=r"model\.kind\.width=18"):
        conditioner(width=18)
