"""The distributed kind: frozen at first, gradients everywhere afterwards, clips that do not see each other."""

import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from projects.text_to_video import single_frames
from projects.text_to_video.distributed import Distributed
from projects.text_to_video.guidance import Guidance
from tests.projects.text_to_video.t2v_parts import (
    NOISE,
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


def distributed(unet: Callable[[], Any] = tiny_unet, **changes: Any) -> Distributed:
    torch.manual_seed(0)
    return Distributed(unet=unet, **{**TINY, **changes})


def ones(times: Tensor) -> Tensor:
    return torch.ones(len(times))


def errors(model: Distributed, **changes: Tensor) -> Tensor:
    return model.errors(latents(), text=texts(), draws=draws(**changes), noise=schedule(), weigh=ones)


def sampled(model: Distributed, *seeds: int, rows: slice = slice(None), **changes: Any) -> Tensor:
    settings = {
        "null_text": texts(1, seed=9),
        "frames": 5,
        "shape": (C, SIZE, SIZE),
        "scheduler": sampler(),
        "steps": 3,
        "guidance": Guidance(text_scale=3.0),
        "generators": generators(*seeds),
    }
    return model.sample(text=texts(3)[rows], **{**settings, **changes})


def scheduler_settings(name: str) -> dict[str, Any]:
    known = inspect.signature(getattr(diffusers, name)).parameters
    return {key: value for key, value in NOISE.items() if key in known}


def test_published_count_of_what_trains() -> None:
    with torch.device("meta"):
        model = Distributed(
            unet=sd21,
            frames=64,
            patch=8,
            depth=20,
            queries=512,
            heads=16,
            dim_head=256,
            width=1024,
            targets=4,
        )
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert trained == 505_650_176 + 211_608_480
    assert sum(each.numel() for each in model.parameters()) == trained + 865_910_724


def test_at_first_errors_are_those_of_the_frozen_model() -> None:
    model, drawn, noise = distributed(), draws(), schedule()
    noisy = noise.add_noise(latents(), drawn.noise, drawn.timesteps)
    goal = noise.target(latents(), drawn.noise, drawn.timesteps)
    wanted = []
    for row in range(2):
        losses = []
        for frame in drawn.targets[row]:
            found = tiny_unet()(noisy[row, frame][None], drawn.timesteps[row : row + 1], texts()[row][None]).sample
            losses.append((found - goal[row, frame]).square().mean())
        wanted.append(torch.stack(losses).mean())
    torch.testing.assert_close(errors(model), torch.stack(wanted), atol=1e-5, rtol=1e-5)
    weighted = model.errors(latents(), text=texts(), draws=drawn, noise=noise, weigh=lambda times: times.float())
    torch.testing.assert_close(weighted, errors(model) * drawn.timesteps)


def test_clips_that_lose_their_context_see_the_frozen_model() -> None:
    model = distributed()
    frozen = errors(model)
    disturb(model)
    mixed = errors(model, keep_context=torch.tensor([False, True]))
    torch.testing.assert_close(mixed[0], frozen[0])
    assert (mixed[1] - frozen[1]).abs() > 1e-3


def test_a_target_sees_the_other_frames() -> None:
    model = distributed()
    disturb(model)
    targets = draws().targets
    other = next(frame for frame in range(5) if frame not in targets[0])
    noise = draws().noise
    noise[0, other] += 1.0
    change = (errors(model, noise=noise) - errors(model)).abs()
    assert change[0] > 1e-4
    assert change[1] < 1e-6


def test_everything_that_trains_gets_a_gradient_and_the_loss_falls() -> None:
    """The paths start at zero, so the conditioner learns from the second step on."""
    model, losses = distributed(), []
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
    frozen = dict(tiny_unet().named_parameters())
    kept = {name: each for name, each in model.unet.named_parameters() if name in frozen}
    assert len(kept) == len(frozen)
    assert all(torch.equal(each, frozen[name]) for name, each in kept.items())


def test_a_frozen_part_in_bfloat16_beside_trained_ones_in_float32() -> None:
    """As the published size trains: mixed precision, and sampling without it."""
    exact, model = distributed(), distributed(unet=lambda: tiny_unet().to(torch.bfloat16), checkpointing=True)
    disturb(exact, 0.05)
    disturb(model, 0.05)
    assert {each.dtype for each in model.parameters() if each.requires_grad} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        mixed = errors(model)
    mixed.mean().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in model.conditioner.parameters())
    torch.testing.assert_close(mixed, errors(exact), atol=0.1, rtol=0.1)
    assert sampled(model, 1, 2, 3).dtype == torch.float32


@pytest.mark.parametrize(
    "name", ["DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler", "UniPCMultistepScheduler"]
)
def test_other_schedulers(name: str) -> None:
    """With zero terminal SNR, given first frames, and a clip alone or in a batch."""
    model, scheduler, first = distributed(), getattr(diffusers, name)(**scheduler_settings(name)), latents(3, 1)[:, 0]
    disturb(model, 0.05)
    together = sampled(model, 1, 2, 3, scheduler=scheduler, steps=6, first=first)
    assert together.isfinite().all()
    assert together.abs().max() < 100
    assert torch.equal(together[:, 0], first)
    alone = sampled(model, 2, rows=slice(1, 2), scheduler=scheduler, steps=6, first=first[1:2])
    torch.testing.assert_close(alone, together[1:2], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("guidance", [Guidance(text_scale=3.0), Guidance(context_scale=1.0), Guidance(rescale=0.5)])
def test_a_clip_depends_on_its_own_seed_alone(guidance: Guidance) -> None:
    model = distributed()
    disturb(model)
    together = sampled(model, 5, 0, 0, guidance=guidance)
    assert together.shape == (3, 5, C, SIZE, SIZE)
    for row, seed in enumerate((5, 0, 0)):
        alone = sampled(model, seed, rows=slice(row, row + 1), guidance=guidance)
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sampled(model, 5, 1, 0, guidance=guidance)[0], together[0], atol=1e-4, rtol=1e-4)


def test_chunks_of_frames_change_nothing() -> None:
    whole, parts = distributed(), distributed(chunk=2)
    disturb(whole)
    disturb(parts)
    torch.testing.assert_close(sampled(whole, 1, 2, 3), sampled(parts, 1, 2, 3), atol=1e-4, rtol=1e-4)


def test_the_conditioner_runs_once_a_step_and_only_where_it_counts() -> None:
    model, calls = distributed(chunk=2), []
    model.conditioner.register_forward_hook(lambda *_: calls.append(1))
    sampled(model, 1, 2, 3)
    assert len(calls) == 3
    sampled(model, 1, 2, 3, guidance=Guidance(context_scale=0.0))
    assert len(calls) == 3


def test_guidance_collapses(monkeypatch: pytest.MonkeyPatch) -> None:
    """At context scale 1 to guidance by the caption with the context, and at (1, 1) to the prediction itself."""
    model, seen = distributed(), []
    disturb(model)
    inner = single_frames.predict
    monkeypatch.setattr(single_frames, "predict", lambda *given: seen.append(given) or inner(*given))
    plain = sampled(model, 1, 2, 3, guidance=Guidance(text_scale=1.0, context_scale=1.0))
    assert [(len(given[1]), given[4] is not None) for given in seen] == [(15, True)] * 3
    near = sampled(model, 1, 2, 3, guidance=Guidance(text_scale=1.0 + 1e-6, context_scale=1.0 - 1e-6))
    torch.testing.assert_close(plain, near, atol=1e-3, rtol=1e-3)
    seen.clear()
    sampled(model, 1, 2, 3, guidance=Guidance(text_scale=4.0, context_scale=1.0))
    assert [(len(given[1]), given[4] is not None) for given in seen] == [(30, True)] * 3


def test_a_first_frame_that_is_given_stays() -> None:
    model, first = distributed(), latents(3, 1)[:, 0]
    disturb(model)
    free, held = sampled(model, 1, 2, 3), sampled(model, 1, 2, 3, first=first)
    assert torch.equal(held[:, 0], first)
    assert (held[:, 1:] - free[:, 1:]).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-4  # the others see it


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.kind\.targets=3, but data\.\*\.targets=2"):
        errors(distributed(targets=3))
    with pytest.raises(ValueError, match=r"sampling\.steps=0"):
        sampled(distributed(), 1, 2, 3, steps=0)
    with pytest.raises(ValueError, match=r"7 frames, but model\.kind\.frames=6"):
        sampled(distributed(), 1, 2, 3, frames=7)


def test_units_hold_nearly_everything_and_none_is_inside_another() -> None:
    model = distributed()
    units = model.units()
    inside = [id(part) for unit in units for part in unit.modules()]
    assert len(inside) == len(set(inside))
    held = sum(each.numel() for unit in units for each in unit.parameters())
    assert held > 0.7 * sum(each.numel() for each in model.parameters())
