"""From noise to the latent of the next frame, guided by the history and the instruction."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from common.latent.guidance import rescale, shares, two_scale
from common.latent.steps import first_noise, make_plan, step_settings

Denoiser = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # as `EditModel.forward`


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly the conditions are followed.

    Attributes:
        text_scale: s_T, 1 takes the prediction as it is.
        image_scale: s_I, likewise.
        rescale: phi of arXiv:2305.08891, 0 (none) to 1.
    """

    text_scale: float = 7.5
    image_scale: float = 1.5
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"sampling.rescale={self.rescale}: 0 (none) to 1")


@dataclass(frozen=True)
class Branch:
    """One set of conditions: the history of a row or zeros, its instruction or the null one."""

    image: bool
    text: bool


NONE, IMAGE, BOTH = Branch(False, False), Branch(True, False), Branch(True, True)


def branches(guidance: Guidance) -> list[Branch]:
    """The branches that are worth computing, in the published order (text and image, image, none)."""
    none, image, both = shares(guidance.text_scale, guidance.image_scale)
    needed = {BOTH: both != 0.0 or guidance.rescale != 0.0, IMAGE: image != 0.0, NONE: none != 0.0}
    return [branch for branch, wanted in needed.items() if wanted]


@torch.no_grad()
def sample(
    model: Denoiser,
    *,
    history: Tensor,
    text: Tensor,
    null_text: Tensor,
    scheduler: SchedulerMixin,
    steps: int,
    guidance: Guidance,
    generators: Sequence[torch.Generator],
    watch: Callable[[Iterable[Tensor]], Iterable[Tensor]] = iter,
) -> Tensor:
    """Samples the next frame of each row. All branches of all rows are one call of the model a step.

    All that is random comes from the row's own generator, so a row does not depend on the others, nor on how rows are
    spread over batches and processes.

    Args:
        model: gives the prediction for (noisy (N, C, h, w), history (N, T, C, h, w), t (N,), text (N, L, D)).
        history: unscaled modes of the posterior, oldest first, (B, T, C, h, w).
        text: states of the instructions, (B, L, D).
        null_text: states of the null instruction "", (1, L, D).
        scheduler: any of diffusers that denoises latents; it is copied, so it stays as it is.
        steps: denoising steps, at least 1.
        guidance: scales.
        generators: B generators, of any seed, 0 included; on the CPU for the same noise on every device.
        watch: wraps the timesteps: a progress bar.

    Returns:
        Scaled latents, float32 (B, C, h, w).

    Raises:
        ValueError: no steps, or a scheduler that draws noise by itself.
    """
    assert len(generators) == len(history) == len(text), (len(generators), history.shape, text.shape)
    plan = make_plan(scheduler, steps, history.device)
    settings = step_settings(plan, generators)
    chosen = branches(guidance)
    history_of_all, text_of_all = _conditions(chosen, history, text, null_text)
    latents = first_noise(tuple(history.shape[2:]), generators).to(history.device) * plan.init_noise_sigma
    for t in watch(plan.timesteps):
        seen = plan.scale_model_input(latents, t).repeat(len(chosen), 1, 1, 1)
        prediction = model(seen, history_of_all, t.expand(len(seen)), text_of_all).float()
        found = dict(zip(chosen, prediction.chunk(len(chosen)), strict=True))
        guided = two_scale(
            found.get(NONE), found.get(IMAGE), found.get(BOTH), guidance.text_scale, guidance.image_scale
        )
        if guidance.rescale != 0.0:
            guided = rescale(guided, found[BOTH], guidance.rescale)
        latents = plan.step(guided, t, latents, return_dict=False, **settings)[0]
    return latents


def _conditions(chosen: Sequence[Branch], history: Tensor, text: Tensor, null_text: Tensor) -> tuple[Tensor, Tensor]:
    """History and text of all branches, one branch after the other."""
    null = null_text.expand_as(text)
    return (
        torch.cat([history if branch.image else torch.zeros_like(history) for branch in chosen]),
        torch.cat([text if branch.text else null for branch in chosen]),
    )
