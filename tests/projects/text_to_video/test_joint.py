"""Joint denoising: the loss, clips that are images, sampling, and what is refused."""

from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, SchedulerMixin

from projects.text_to_video.guidance import Guidance
from projects.text_to_video.joint import Joint
from projects.text_to_video.motion import predict
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
    texts,
    tiny_unet,
)

TEXT_ALONE = Guidance(text_scale=3.0, context_scale=1.0, rescale=0.7)


def joint(**changes: Any) -> Joint:
    torch.manual_seed(0)
    settings = {"frames": 8, "train_spatial": True, "motion": {"heads": 2}, **changes}
    kind = Joint(unet=tiny_unet, **settings)
    disturb(kind)
    return kind


def errors(kind: Joint, **changes: Any) -> torch.Tensor:
    given = {"text": texts(), "draws": draws(), "noise": schedule(), "weigh": torch.ones_like, **changes}
    return kind.errors(latents(), **given)


def sample(kind: Joint, *seeds: int, scheduler: SchedulerMixin | None = None, **changes: Any) -> torch.Tensor:
    given = {"text": texts(3)[list(seeds)], "null_text": texts(1, seed=9), "frames": 5, "shape": (C, SIZE, SIZE)}
    return kind.sample(
        **{**given, "steps": 4, "guidance": TEXT_ALONE, "generators": generators(*seeds), **changes},
        scheduler=scheduler or sampler(),
    )


def test_the_loss_is_that_of_all_frames_at_one_time() -> None:
    kind, noise, drawn = joint(), schedule(), draws()
    clean = latents()
    with torch.no_grad():
        noisy = noise.add_noise(clean, drawn.noise, drawn.timesteps)
        target = noise.target(clean, drawn.noise, drawn.timesteps)
        wanted = (predict(kind.unet, noisy, drawn.timesteps, texts()) - target).square().mean(dim=(1, 2, 3, 4))
        found = errors(kind)
        torch.testing.assert_close(found, wanted)
        weighed = errors(kind, weigh=lambda t: t.float())
    torch.testing.assert_close(weighed, wanted * drawn.timesteps)
    assert found.dtype == torch.float32


def test_some_frames_of_a_clip_are_learned_at_their_places() -> None:
    kind, drawn = joint(targets=3), draws(targets=3)
    noise, places = schedule(), drawn.targets[:, :3].sort(dim=1).values
    rows = torch.arange(len(places))[:, None]
    with torch.no_grad():
        found = errors(kind, draws=drawn)
        kind._place(places)
        clean, added = latents()[rows, places], drawn.noise[rows, places]
        noisy = noise.add_noise(clean, added, drawn.timesteps)
        target = noise.target(clean, added, drawn.timesteps)
        wanted = (predict(kind.unet, noisy, drawn.timesteps, texts()) - target).square().mean(dim=(1, 2, 3, 4))
        torch.testing.assert_close(found, wanted)
        kind._place(None)
        elsewhere = (predict(kind.unet, noisy, drawn.timesteps, texts()) - target).square().mean(dim=(1, 2, 3, 4))
        assert not torch.allclose(found, elsewhere, rtol=1e-4)
        everything = draws(targets=latents().shape[1])
        whole, chosen = (errors(joint(targets=count), draws=everything) for count in (None, latents().shape[1]))
        torch.testing.assert_close(chosen, whole)


def test_images_are_what_the_image_model_gives_whatever_the_temporal_layers_hold() -> None:
    spare = torch.zeros(2, 8)
    spare[1, 0] = 0.9  # the second clip stays a clip
    kind = joint(images=0.5)
    drawn = draws(spare=spare)
    frames: Any = tiny_unet()
    state = kind.unet.state_dict()
    frames.load_state_dict({name: state[name] for name in frames.state_dict()})
    noise, clean = schedule(), latents()
    found = errors(kind, draws=drawn)
    with torch.no_grad():
        noisy = noise.add_noise(clean, drawn.noise, drawn.timesteps)[0]
        t = drawn.timesteps[:1].expand(5)
        prediction = frames(noisy, t, encoder_hidden_states=texts()[:1].expand(5, -1, -1)).sample
        target = noise.target(clean, drawn.noise, drawn.timesteps)[0]
        torch.testing.assert_close(found[0], (prediction - target).square().mean(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found[1], errors(joint(images=0.0))[1])

    temporal = [each for name, each in kind.named_parameters() if "motion_modules" in name]
    found[0].backward(retain_graph=True)
    assert all((each.grad == 0).all() for each in temporal)  # but they have one: all ranks wait for it
    assert kind.unet.conv_in.weight.grad.abs().amax() > 0
    found[1].backward()
    assert any(each.grad.abs().amax() > 0 for each in temporal)


def test_sampling_bypasses_nothing() -> None:
    kind = joint(images=0.5)
    with torch.no_grad():
        errors(kind, draws=draws(spare=torch.zeros(2, 8)))
    assert torch.equal(sample(kind, 0), sample(joint(), 0))


@pytest.mark.parametrize("scheduler", [None, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
def test_a_clip_depends_on_its_generator_alone(scheduler: Any) -> None:
    made = None
    if scheduler is not None:
        made = scheduler.from_config({**NOISE, "_class_name": scheduler.__name__})
    kind = joint()
    both, alone = sample(kind, 0, 1, scheduler=made), sample(kind, 1, scheduler=made)
    assert both.shape == (2, 5, C, SIZE, SIZE)
    assert both.isfinite().all()
    torch.testing.assert_close(both[1:], alone, atol=2e-3, rtol=1e-3)  # Euler's first step has a sigma of 4096
    assert (both[0] - both[1]).abs().amax() > 0.1


def test_guidance_is_by_text_and_rescaled_by_clip() -> None:
    kind = joint()
    calls: list[int] = []
    kind.unet.register_forward_hook(lambda module, given, output: calls.append(len(output[0])))
    plain = sample(kind, 0, 1, guidance=Guidance(text_scale=1.0, context_scale=1.0))
    assert calls == [2] * 4
    strong = sample(kind, 0, 1)
    assert calls[4:] == [4] * 4
    assert (plain - strong).abs().amax() > 1e-2


@pytest.mark.parametrize("scheduler", [None, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
def test_a_first_frame_is_kept_and_seen(scheduler: Any) -> None:
    made = None
    if scheduler is not None:
        made = scheduler.from_config({**NOISE, "_class_name": scheduler.__name__})
    kind, first = joint(), latents(1)[:, 0]
    found = sample(kind, 0, first=first, scheduler=made)
    assert torch.equal(found[:, 0], first)
    free = sample(kind, 0, scheduler=made)
    assert (found[:, 1:] - free[:, 1:]).abs().amax() > 1e-3


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"images=0.1, but images bypass .* train_spatial=true"):
        joint(images=0.1, train_spatial=False)
    with pytest.raises(ValueError, match=r"images=1.5: a share"):
        joint(images=1.5)
    with pytest.raises(ValueError, match=r"targets=9: from 2 frames of a clip to all 8"):
        joint(targets=9)
    kind = joint(frames=4)
    with pytest.raises(ValueError, match=r"clips of 5 frames, but model\.kind\.frames=4"):
        errors(kind)
    with pytest.raises(ValueError, match=r"clips of 5 frames, but model\.kind\.frames=4"):
        sample(kind, 0)
    with pytest.raises(ValueError, match=r"context_scale=1\.1 .*but Joint has no context"):
        sample(kind, 0, frames=4, guidance=Guidance())
