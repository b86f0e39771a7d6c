"""Windows: what of them is learned, that training and sampling show the model the same, and the roll-out."""

from typing import Any

import pytest
import torch
from torch import Tensor

from projects.text_to_video.chunks import Chunks, with_noise
from projects.text_to_video.guidance import Guidance
from projects.text_to_video.motion import predict
from tests.projects.text_to_video.t2v_parts import (
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

TEXT_ALONE = Guidance(text_scale=3.0, context_scale=1.0)


def chunks(**changes: Any) -> Chunks:
    torch.manual_seed(0)
    settings = {"window": 5, "context": 2, "train_spatial": True, "motion": {"heads": 2}, **changes}
    kind = Chunks(unet=tiny_unet, **settings)
    disturb(kind)
    return kind


def spare(length: float, level: float = 0.5, start: float = 0.0, clips: int = 2) -> Tensor:
    return torch.tensor([length, level, start] + [0.0] * 5).expand(clips, 8)


def errors(kind: Chunks, clean: Tensor, drawn: Any, **changes: Any) -> Tensor:
    given = {"text": texts(), "draws": drawn, "noise": schedule(), "weigh": torch.ones_like, **changes}
    return kind.errors(clean, **given)


def sample(kind: Chunks, *seeds: int, **changes: Any) -> Tensor:
    given = {"text": texts(3)[list(seeds)], "null_text": texts(1, seed=9), "frames": 8, "shape": (C, SIZE, SIZE)}
    settings = {"steps": 3, "scheduler": sampler(), "guidance": TEXT_ALONE, "generators": generators(*seeds)}
    return kind.sample(**{**given, **settings, **changes})


def record(kind: Chunks) -> list[Tensor]:
    """What the UNet is given, (N, W, C + 1, h, w) a call."""
    seen: list[Tensor] = []
    kind.unet.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().transpose(1, 2).clone()))
    return seen


def test_the_model_sees_context_with_its_level_and_new_frames_with_noise() -> None:
    kind, clean, noise = chunks(), latents(2, 7), schedule()
    drawn = draws(2, 7, spare=spare(0.9, level=0.5, start=0.99))  # 2 known frames, sigma 0.15, the last window
    seen = record(kind)
    found = errors(kind, clean, drawn, weigh=lambda t: 2 * torch.ones(len(t)))
    window, added = clean[:, 2:], drawn.noise[:, 2:]
    level = torch.full((2,), 0.15)
    wanted = noise.add_noise(window, added, drawn.timesteps)
    wanted[:, :2] = with_noise(window, added, level)[:, :2]
    assert len(seen) == 1
    torch.testing.assert_close(seen[0][:, :, :C], wanted)
    torch.testing.assert_close(seen[0][:, :2, C], torch.full((2, 2, SIZE, SIZE), 0.85))
    assert (seen[0][:, 2:, C] == 0).all()

    with torch.no_grad():
        prediction = predict(kind.unet, seen[0], drawn.timesteps, texts())
        target = noise.target(window, added, drawn.timesteps)
        torch.testing.assert_close(found, 2 * (prediction - target)[:, 2:].square().mean(dim=(1, 2, 3, 4)))


@pytest.mark.parametrize(("length", "known"), [(0.0, 0), (0.34, 1), (0.999999, 2)])
def test_the_loss_is_of_the_new_frames_alone(length: float, known: int) -> None:
    kind, outputs = chunks(), []

    def keep(module: Any, given: Any, output: Any) -> None:
        output[0].retain_grad()
        outputs.append(output[0])

    kind.unet.register_forward_hook(keep)
    errors(kind, latents(), draws(spare=spare(length))).sum().backward()
    moved = outputs[0].grad.transpose(1, 2).abs().amax(dim=(0, 2, 3, 4))  # (W,)
    assert (moved[:known] == 0).all()
    assert (moved[known:] > 0).all()


def test_context_does_not_tell_of_new_frames() -> None:
    """What is given at the places of the context is a function of the context's own latents and noise."""
    kind, drawn = chunks(), draws(spare=spare(0.9))
    seen = record(kind)
    clean = latents()
    with torch.no_grad():
        errors(kind, clean, drawn)
        errors(kind, torch.cat([clean[:, :2], 5 + clean[:, 2:]], dim=1), drawn)
    assert torch.equal(seen[0][:, :2], seen[1][:, :2])
    assert not torch.equal(seen[0][:, 2:], seen[1][:, 2:])


def test_lengths_levels_and_places_are_uniform() -> None:
    kind = chunks(window=6, context=4, context_noise=0.3)
    drawn = torch.rand(20_000, 8, generator=torch.Generator().manual_seed(0))
    chosen = kind.choose(drawn, 10)
    counts = chosen.known.sum(dim=1).bincount(minlength=5)
    assert len(counts) == 5
    assert ((counts / 20_000 - 0.2).abs() < 0.015).all()
    starts = chosen.frames[:, 0].bincount(minlength=5)
    assert len(starts) == 5
    assert ((starts / 20_000 - 0.2).abs() < 0.015).all()
    assert (chosen.frames - chosen.frames[:, :1] == torch.arange(6)).all()
    assert chosen.level.amin() >= 0
    assert 0.29 < chosen.level.amax() <= 0.3
    assert (chosen.known == (torch.arange(6) < chosen.known.sum(dim=1, keepdim=True))).all()
    edge = torch.full((1, 8), torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item())
    last = kind.choose(edge, 10)
    assert (last.known.sum(), last.frames[0, -1]) == (4, 9)  # rounded to float32 they would be 5 and 10


@pytest.mark.parametrize("given", [False, True])
def test_the_roll_out_is_a_window_and_then_the_new_frames_of_others(given: bool) -> None:
    kind = chunks()
    seen = record(kind)
    first = latents(1)[:, 0] if given else None
    found = sample(kind, 0, frames=11, first=first)  # 5 + 2 x 3
    assert found.shape == (1, 11, C, SIZE, SIZE)
    assert len(seen) == 3 * 3
    for window, start in enumerate((0, 3, 6)):
        known = 2 if window else int(given)
        for inputs in seen[3 * window : 3 * window + 3]:
            assert inputs.shape == (2, 5, C + 1, SIZE, SIZE)  # with and without the caption
            assert torch.equal(inputs[:, :, C].amax(dim=(2, 3)) > 0, (torch.arange(5) < known).expand(2, 5))
            shown = inputs[0, :known, :C]
            wanted = (1 - 0.1**2) ** 0.5 * found[0, start : start + known]
            spread = (shown - wanted).std() if known else torch.tensor(0.1)
            assert 0.07 < spread < 0.13  # sigma 0.1
        assert torch.equal(seen[3 * window][:, :known], seen[3 * window + 2][:, :known])  # the same at each step
    if given:
        assert torch.equal(found[:, 0], first)


def test_the_published_roll_out_of_64_frames_is_five_windows() -> None:
    kind = chunks(window=16, context=4)
    seen = record(kind)
    assert sample(kind, 0, frames=64, steps=1).shape[1] == 16 + 4 * 12
    assert len(seen) == 5


def test_frames_beyond_the_end_are_cut() -> None:
    kind = chunks()
    assert torch.equal(sample(kind, 0, frames=7), sample(kind, 0, frames=8)[:, :7])


def test_an_anchor_takes_the_place_of_the_first_known_frame_in_training_and_sampling() -> None:
    kind = chunks(anchor=True, sampling_noise=0.0)
    chosen = kind.choose(spare(0.9, start=0.99), 7)
    assert chosen.frames[0].tolist() == [0, 3, 4, 5, 6]
    assert kind.choose(spare(0.34, start=0.99), 7).frames[0].tolist() == [2, 3, 4, 5, 6]  # one known frame: the newest
    seen = record(kind)
    found = sample(kind, 0, frames=11)
    torch.testing.assert_close(seen[-1][0, :2, :C], torch.stack([found[0, 0], found[0, 7]]))


def test_a_clip_depends_on_its_generator_alone() -> None:
    kind = chunks()
    both, alone = sample(kind, 0, 1), sample(kind, 1)
    torch.testing.assert_close(both[1:], alone, atol=2e-3, rtol=2e-3)
    assert (both[0] - both[1]).abs().amax() > 0.1


def test_the_first_convolution_learns_the_level_even_beside_frozen_layers() -> None:
    kind = chunks(train_spatial=False)
    errors(kind, latents(), draws(spare=spare(0.9))).sum().backward()
    assert kind.unet.conv_in.weight.grad[:, C:].abs().amax() > 0
    assert kind.unet.down_blocks[0].resnets[0].conv1.weight.grad is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": 0}, "context=0: at least one frame and fewer than window=5"),
        ({"context": 5}, "context=5: at least one"),
        ({"sampling_noise": 0.4}, "sampling_noise=0.4 and context_noise=0.3"),
        ({"context": 1, "anchor": True}, "need context=2 or more"),
        ({"motion": {"depth": 2}}, r"motion\.depth"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chunks(**changes)


def test_clips_shorter_than_the_window_are_refused() -> None:
    kind = chunks()
    with pytest.raises(ValueError, match=r"clips of 4 frames are shorter than model\.kind\.window=5"):
        errors(kind, latents(2, 4), draws(2, 4))
    with pytest.raises(ValueError, match="clips of 4 frames are shorter"):
        sample(kind, 0, frames=4)
    with pytest.raises(ValueError, match="Chunks has no context apart"):
        sample(kind, 0, guidance=Guidance())
