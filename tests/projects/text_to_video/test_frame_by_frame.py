"""The frame-by-frame kind: causality to the last bit, levels of noise, roll-out."""

from typing import Any

import pytest
import torch
from torch import Tensor

from projects.text_to_video.conditioner import Conditioner
from projects.text_to_video.frame_by_frame import FrameByFrame, later_frames
from projects.text_to_video.guidance import Guidance
from projects.text_to_video.inject import INTERFACES, Interface
from tests.projects.text_to_video.t2v_parts import (
    SIZE,
    C,
    disturb,
    draws,
    generators,
    latents,
    sampler,
    schedule,
    sd21,
    texts,
    tiny_unet,
)

TINY: dict[str, Any] = {
    "frames": 6,
    "patch": 2,
    "depth": 1,
    "queries": 4,
    "heads": 2,
    "dim_head": 8,
    "width": 16,
    "targets": 2,
}
TARGETS = torch.tensor([[1, 3], [4, 2]])


def frame_by_frame(**changes: Any) -> FrameByFrame:
    torch.manual_seed(0)
    return FrameByFrame(unet=tiny_unet, **{**TINY, **changes})


def ones(times: Tensor) -> Tensor:
    return torch.ones(len(times))


def errors(model: FrameByFrame, clean: Tensor | None = None, **changes: Tensor) -> Tensor:
    drawn = draws()._replace(**{"targets": TARGETS, **changes})
    return model.errors(latents() if clean is None else clean, text=texts(), draws=drawn, noise=schedule(), weigh=ones)


def sampled(model: FrameByFrame, *seeds: int, rows: slice = slice(None), **changes: Any) -> Tensor:
    settings = {
        "null_text": texts(1, seed=9),
        "frames": 4,
        "shape": (C, SIZE, SIZE),
        "scheduler": sampler(),
        "steps": 2,
        "guidance": Guidance(text_scale=3.0),
        "generators": generators(*seeds),
    }
    return model.sample(text=texts(3)[rows], **{**settings, **changes})


def test_published_counts() -> None:
    """324.8 million: a conditioner without tokens of time and target, and copies of the transformers."""
    size: dict[str, Any] = {
        "frames": 64,
        "patch": 8,
        "depth": 2,
        "queries": 512,
        "heads": 16,
        "dim_head": 256,
        "width": 1024,
    }
    with torch.device("meta"):
        model = FrameByFrame(unet=sd21, interface="transformers", targets=4, **size)
        plain = Conditioner(channels=4, time_token=False, target_token=False, **size)
    assert sum(each.numel() for each in plain.parameters()) == 52_315_136 - 1064 * 1024
    extra = 1024**2 + 1024  # the token of the level
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert trained - extra == 273_629_120 + 52_315_136 - 1064 * 1024


@pytest.mark.parametrize("interface", INTERFACES)
def test_frames_from_the_target_on_have_no_gradient(interface: Interface) -> None:
    """Exactly 0: the target's frame counts as what is to be found, never as context."""
    model, clean = frame_by_frame(interface=interface, targets=1), latents().requires_grad_()
    disturb(model)
    seen: list[Tensor] = []
    model.conditioner.register_forward_hook(lambda module, given, found: seen.append(found))
    targets = torch.tensor([[2], [4]])
    (grad,) = torch.autograd.grad(errors(model, clean, targets=targets).sum(), clean)
    for row, target in enumerate((2, 4)):
        assert torch.equal(grad[row, target + 1 :], torch.zeros_like(grad[row, target + 1 :]))
        assert all(float(frame.abs().max()) > 0 for frame in grad[row, : target + 1])
    seen.clear()
    errors(model, clean, targets=targets)
    (grad,) = torch.autograd.grad(seen[0].sum(dim=(1, 2)).square().sum(), clean)
    for row, target in enumerate((2, 4)):
        assert torch.equal(grad[row, target:], torch.zeros_like(grad[row, target:]))
        assert all(float(frame.abs().max()) > 0 for frame in grad[row, :target])


def test_the_first_frame_is_no_target() -> None:
    spare = torch.rand(4000, 8, generator=torch.Generator().manual_seed(0))
    drawn = torch.cat(
        [torch.randperm(4, generator=torch.Generator().manual_seed(row))[None, :1] for row in range(4000)]
    )
    counts = later_frames(drawn, spare, 4).flatten().bincount(minlength=4)
    assert counts[0] == 0
    assert all(abs(int(count) - 4000 / 3) < 5 * (4000 * 2 / 9) ** 0.5 for count in counts[1:])
    assert later_frames(torch.tensor([[0, 2]]), torch.full((1, 8), 0.9999999), 4).tolist() == [[3, 2]]


def test_the_level_of_the_noise_is_told_and_used() -> None:
    model, seen = frame_by_frame(most_noise=0.5), []
    model.conditioner.register_forward_hook(
        lambda module, given, named, found: seen.append((given[0], named["level"])), with_kwargs=True
    )
    disturb(model)
    spare = draws().spare
    spare[:, 0] = torch.tensor([0.0, 0.8])
    quiet = errors(model, spare=spare)
    clips, level = seen[0]
    torch.testing.assert_close(level, torch.tensor([0.0, 0.4]))
    assert torch.equal(clips[0], latents()[0])
    torch.testing.assert_close(clips[1], latents()[1] + 0.4 * draws().noise[1])
    spare[0, 0] = 1.0
    loud = errors(model, spare=spare)
    assert (loud[0] - quiet[0]).abs() > 1e-4
    torch.testing.assert_close(loud[1], quiet[1])
    seen.clear()
    sampled(model, 1, 2, 3)
    assert [clips.shape[1] for clips, _ in seen] == [1, 2, 3]  # once a frame
    assert all(torch.equal(level, torch.full((3,), 0.1)) for _, level in seen)


def test_training_and_sampling_show_the_same_context() -> None:
    """A frame is shown with the same noise to all frames after it, and with other noise than it was made from."""
    model, seen = frame_by_frame(sampling_noise=0.3), []
    model.conditioner.register_forward_hook(lambda module, given, found: seen.append(given[0]))
    made = sampled(model, 1, 2, 3)
    blur = (seen[2] - made[:, :3]) / 0.3
    torch.testing.assert_close(seen[1], seen[2][:, :2])
    assert 0.8 < float(blur.std()) < 1.2
    start = torch.stack([torch.randn(1, 4, C, SIZE, SIZE, generator=each)[0, :3] for each in generators(1, 2, 3)])
    assert float((blur * start).mean().abs()) < 0.15


def test_everything_that_trains_gets_a_gradient_and_the_loss_falls() -> None:
    model, losses = frame_by_frame(target_token=True), []
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=3e-3)
    for step in range(30):
        loss = errors(model).mean()
        optimizer.zero_grad()
        loss.backward()
        if step == 3:
            assert not [name for name, each in trained.items() if each.grad is None or not each.grad.any()]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_clip_depends_on_its_own_seed_alone() -> None:
    model = frame_by_frame()
    disturb(model)
    together = sampled(model, 5, 0, 0)
    assert together.shape == (3, 4, C, SIZE, SIZE)
    for row, seed in enumerate((5, 0, 0)):
        alone = sampled(model, seed, rows=slice(row, row + 1))
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-4, rtol=1e-4)


def test_roll_out() -> None:
    """The first frame is the image model's or given; a longer clip begins as a shorter one with the same noise does."""
    model, first = frame_by_frame(), latents(3, 1)[:, 0]
    by_caption = sampled(model, 1, 2, 3)
    assert torch.equal(sampled(model, 1, 2, 3, first=first)[:, 0], first)
    frozen = sampled(model, 1, 2, 3, guidance=Guidance(text_scale=3.0, context_scale=0.0))
    disturb(model)
    trained = sampled(model, 1, 2, 3)
    assert torch.equal(trained[:, 0], by_caption[:, 0])
    assert torch.equal(sampled(model, 1, 2, 3, guidance=Guidance(text_scale=3.0, context_scale=0.0)), frozen)
    held = sampled(model, 1, 2, 3, first=first)
    assert (held[:, 1:] - trained[:, 1:]).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-4


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sampling_noise=0\.6 and most_noise=0\.5"):
        frame_by_frame(sampling_noise=0.6, most_noise=0.5)
    with pytest.raises(ValueError, match=r"model\.kind\.frames=1"):
        frame_by_frame(frames=1)
    with pytest.raises(ValueError, match=r"model\.kind\.targets=3"):
        errors(frame_by_frame(targets=3))
