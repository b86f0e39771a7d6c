"""From noise to the latents of clips, guided by their captions: for kinds that denoise many frames together."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from common.latent.steps import make_plan, step_settings
from projects.text_to_video.guidance import Guidance, branches, combine

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # noisy (N, F, C, h, w), t (N,), text (N, L, D) to (N, F, C, h, w)
Overwrite = Callable[[Any, Tensor, Tensor], None]  # scheduler, latents (B, F, C, h, w) changed in place, t


@torch.no_grad()
def denoise(
    predict: Predict,
    *,
    noise: Tensor,
    text: Tensor,
    null_text: Tensor,
    scheduler: SchedulerMixin,
    steps: int,
    guidance: Guidance,
    generators: Sequence[torch.Generator],
    overwrite: Overwrite | None = None,
) -> Tensor:
    """Samples frames of each clip. With and without its caption, all clips are one call of the model a step.

    Args:
        predict: the model; it may be called with the clips several times over, one guidance branch after the other.
        noise: standard normal, float32 (B, F, C, h, w).
        text: states of the captions, (B, L, D).
        null_text: of the null caption, (1, L, D).
        scheduler: any of diffusers that denoises latents.
        steps: denoising steps.
        guidance: with context_scale 1.
        generators: B of them, for what the scheduler draws.
        overwrite: sets what is known of the latents before each step.

    Returns:
        Scaled latents, float32 (B, F, C, h, w).

    Raises:
        ValueError: no steps, or a scheduler that draws noise by itself.
    """
    assert guidance.context_scale == 1.0, guidance
    assert len(noise) == len(text) == len(generators), (noise.shape, text.shape, len(generators))
    plan = make_plan(scheduler, steps, noise.device)
    settings = step_settings(plan, generators)
    chosen = branches(guidance)
    texts = torch.cat([text if branch.text else null_text.expand_as(text) for branch in chosen])
    latents = noise * plan.init_noise_sigma
    for t in plan.timesteps:
        if overwrite is not None:
            overwrite(plan, latents, t)
        seen = plan.scale_model_input(latents, t).repeat(len(chosen), 1, 1, 1, 1)
        prediction = predict(seen, t.expand(len(seen)), texts).float()
        found = dict(zip(chosen, prediction.chunk(len(chosen)), strict=True))
        latents = plan.step(combine(found, guidance), t, latents, return_dict=False, **settings)[0]
    return latents
