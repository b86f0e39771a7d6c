"""Sampling: scales, seeds, and rows that do not see each other, with many schedulers of diffusers."""

import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from projects.pix2pix_video.model import EditModel
from projects.pix2pix_video.sampling import Guidance, branches, sample
from tests.projects.pix2pix_video.parts import C, inputs, tiny_unet

NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS = [
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
]


class Counted:
    """A model that remembers what it was asked."""

    def __init__(self, history: int = 2) -> None:
        self.model = EditModel(unet=tiny_unet(in_channels=C + history * C))
        self.calls: list[tuple[Tensor, ...]] = []

    def __call__(self, *arguments: Tensor) -> Tensor:
        self.calls.append(arguments)
        return self.model(*arguments)


def make_scheduler(name: str = "DDIMScheduler", **settings: Any) -> Any:
    known = inspect.signature(getattr(diffusers, name)).parameters
    own = {"clip_sample": False, "skip_prk_steps": True}  # as Stable Diffusion has them
    return getattr(diffusers, name)(**NOISE, **{key: own[key] for key in own if key in known}, **settings)


def run(model: Any, seeds: Sequence[int], rows: slice = slice(None), **changes: Any) -> Tensor:
    _, history, _, text = inputs(4, 2)
    settings = {
        "scheduler": make_scheduler(),
        "steps": 3,
        "guidance": Guidance(),
        "null_text": inputs(1, 1, seed=9)[3],
        "generators": [torch.Generator().manual_seed(seed) for seed in seeds],
    }
    return sample(model, history=history[rows], text=text[rows], **{**settings, **changes})


@pytest.mark.parametrize(
    ("scales", "wanted"),
    [
        ({}, [(True, True), (True, False), (False, False)]),
        ({"text_scale": 1.0, "image_scale": 1.0}, [(True, True)]),
        ({"text_scale": 7.5, "image_scale": 1.0}, [(True, True), (True, False)]),
        ({"text_scale": 1.5, "image_scale": 1.5}, [(True, True), (False, False)]),
        ({"text_scale": 0.0, "image_scale": 1.5}, [(True, False), (False, False)]),
        ({"text_scale": 0.0, "image_scale": 1.5, "rescale": 0.5}, [(True, True), (True, False), (False, False)]),
    ],
)
def test_a_branch_that_cancels_out_is_not_computed(scales: dict[str, float], wanted: list[tuple[bool, bool]]) -> None:
    guidance = Guidance(**scales)
    assert [(branch.image, branch.text) for branch in branches(guidance)] == wanted
    model = Counted()
    run(model, [0, 1], slice(2), guidance=guidance)
    assert [len(noisy) for noisy, *_ in model.calls] == [2 * len(wanted)] * 3  # one call a step
    _, history, t, text = model.calls[0]
    assert t.shape == (2 * len(wanted),)
    for number, (image, words) in enumerate(wanted):
        part = slice(2 * number, 2 * number + 2)
        assert bool(history[part].any()) == image
        assert torch.equal(text[part], (inputs(4, 2)[3][:2] if words else inputs(1, 1, seed=9)[3].expand(2, -1, -1)))


def test_leaving_branches_out_changes_nothing() -> None:
    """Scales beside those where a branch cancels out are computed with all three, and give nearly the same."""
    for text_scale, image_scale in ((1.0, 1.0), (7.5, 1.0), (1.5, 1.5)):
        few = run(Counted(), range(4), guidance=Guidance(text_scale=text_scale, image_scale=image_scale))
        near = Guidance(text_scale=text_scale + 1e-6, image_scale=image_scale - 1e-6)
        assert len(branches(near)) == 3
        torch.testing.assert_close(few, run(Counted(), range(4), guidance=near), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_row_depends_on_its_own_seed_alone(name: str) -> None:
    model, scheduler = Counted(), make_scheduler(name)
    before = torch.random.get_rng_state()
    together = run(model, [5, 0, 7, 0], scheduler=scheduler)
    assert together.isfinite().all()
    for row, seed in enumerate([5, 0, 7, 0]):  # in any order, one scheduler for all: it keeps no state of a call
        alone = run(model, [seed], slice(row, row + 1), scheduler=scheduler)
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-4, rtol=1e-4)
    other = run(model, [5, 1, 7, 0], scheduler=scheduler)
    torch.testing.assert_close(other[[0, 2, 3]], together[[0, 2, 3]], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(other[1], together[1], atol=1e-2)
    assert torch.equal(torch.random.get_rng_state(), before)  # nothing comes from the process


def test_the_scheduler_scales_its_input() -> None:
    """Euler starts from noise of its greatest sigma, and shows the model noise of unit variance."""
    model, scheduler = Counted(), make_scheduler("EulerDiscreteScheduler")
    run(model, [0], slice(1), scheduler=scheduler)
    noise = torch.randn(1, C, 8, 8, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(3)
    first = scheduler.scale_model_input(noise * scheduler.init_noise_sigma, scheduler.timesteps[0])
    torch.testing.assert_close(model.calls[0][0][:1], first)
    assert 0.5 < model.calls[0][0].std() < 2 < scheduler.init_noise_sigma


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_leads_to_the_truth(prediction: str) -> None:
    """With every kind of prediction: the model knows the clean latent and answers what it was asked for."""
    clean = torch.randn(2, C, 8, 8, generator=torch.Generator().manual_seed(3))
    scheduler = make_scheduler(prediction_type=prediction)

    def model(noisy: Tensor, history: Tensor, t: Tensor, text: Tensor) -> Tensor:
        abar = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        x = clean.repeat(len(noisy) // 2, 1, 1, 1)
        noise = (noisy - abar.sqrt() * x) / (1 - abar).sqrt()
        return {"epsilon": noise, "v_prediction": abar.sqrt() * noise - (1 - abar).sqrt() * x, "sample": x}[prediction]

    found = run(model, [0, 1], slice(2), scheduler=scheduler, steps=10)
    torch.testing.assert_close(found, clean, atol=0.05, rtol=0.05)


def test_the_steps_are_shown_and_wrong_settings_refused() -> None:
    shown: list[Tensor] = []
    run(Counted(), range(4), watch=lambda steps: (shown.append(step) or step for step in steps))  # type: ignore[func-returns-value]
    assert len(shown) == 3
    with pytest.raises(ValueError, match=r"sampling\.steps=0"):
        run(Counted(), range(4), steps=0)
    with pytest.raises(ValueError, match=r"sampling\.rescale=1\.5"):
        Guidance(rescale=1.5)
    scheduler = make_scheduler()
    scheduler.noise_sampler = None  # as DPMSolverSDEScheduler has one; it needs torchsde
    scheduler.step = lambda model_output, timestep, sample: None
    with pytest.raises(ValueError, match="draws noise that no seed of a row decides"):
        run(Counted(), range(4), scheduler=scheduler)
