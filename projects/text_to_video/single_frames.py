"""What the kinds with context share: calls of the UNet frame by frame, errors of target frames, guided steps."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from torch import Tensor

from common.latent.noise import squared_errors
from common.latent.steps import make_plan, step_settings
from projects.text_to_video.guidance import Branch, Guidance, branches
from projects.text_to_video.inject import conditions


def predict(
    unet: UNet2DConditionModel,
    noisy: Tensor,
    times: Tensor,
    text: Tensor,
    context: Tensor | None,
    keep: Tensor | None = None,
) -> Tensor:
    """One call of the UNet in its own dtype.

    Args:
        unet: with paths for context (`projects.text_to_video.inject`).
        noisy: frames with noise, (N, C, h, w).
        times: (N,).
        text: hidden states of the captions, (N, L, D).
        context: tokens, (N, Q, D); None for the frozen UNet.
        keep: rows that see their context, bool (N,); all if None.

    Returns:
        float32 (N, C, h, w).
    """
    called: Any = unet
    dtype = called.conv_in.weight.dtype
    (found,) = called(
        noisy.to(dtype), times, text.to(dtype), cross_attention_kwargs=conditions(context, keep), return_dict=False
    )
    return found.float()


def errors_of_targets(
    unet: UNet2DConditionModel,
    noisy: Tensor,
    goal: Tensor,
    times: Tensor,
    text: Tensor,
    context: Tensor,
    keep: Tensor,
) -> Tensor:
    """Mean squared error of the m target frames of each clip.

    Args:
        unet: with paths for context.
        noisy: target frames with noise, (B, m, C, h, w).
        goal: what the UNet should give for them, likewise.
        times: (B,).
        text: (B, L, D).
        context: (B, m, Q, D).
        keep: clips that see their context, bool (B,).

    Returns:
        float32 (B,).
    """
    count = noisy.shape[1]
    times, text, keep = (each.repeat_interleave(count, dim=0) for each in (times, text, keep))
    found = predict(unet, noisy.flatten(0, 1), times, text, context.flatten(0, 1), keep)
    return squared_errors(found, goal.flatten(0, 1)).view(-1, count).mean(dim=1)


def frames_of(clips: Tensor, targets: Tensor) -> Tensor:
    """Frames (B, m, ...) of clips (B, F, ...), those numbered by `targets`, int64 (B, m)."""
    return clips[torch.arange(len(clips), device=clips.device).unsqueeze(1), targets]


def chosen_targets(targets: Tensor, count: int) -> Tensor:
    """The first `count` of the drawn target frames.

    Args:
        targets: as drawn, int64 (B, m).
        count: `model.kind.targets`.

    Raises:
        ValueError: too few are drawn.
    """
    if targets.shape[1] < count:
        raise ValueError(f"model.kind.targets={count}, but data.*.targets={targets.shape[1]} frames are drawn")
    return targets[:, :count]


def refuse_few(frames: int, targets: int) -> None:
    """Raises ValueError for clips with fewer frames than a step learns of each."""
    if frames < targets:
        raise ValueError(
            f"clips of {frames} frames, but a step learns model.kind.targets={targets} of each; lower it, or leave out "
            "such short clips (data.*.buckets)"
        )


def branch_predictions(
    unet: UNet2DConditionModel,
    noisy: Tensor,
    time: Tensor,
    *,
    text: Tensor,
    null_text: Tensor,
    context: Tensor | None,
    guidance: Guidance,
    chunk: int,
) -> dict[Branch, Tensor]:
    """Predictions of each branch that counts; with the context and without it are a call each, a chunk at a time.

    Args:
        unet: with paths for context.
        noisy: (B, m, C, h, w).
        time: a number.
        text: (B, L, D).
        null_text: (1, L, D).
        context: (B, m, Q, D); None where no branch needs it.
        guidance: scales.
        chunk: frames of a clip in a call.

    Returns:
        float32 (B, m, C, h, w) each.
    """
    found: dict[Branch, list[Tensor]] = {branch: [] for branch in branches(guidance)}
    for start in range(0, noisy.shape[1], chunk):
        part = slice(start, start + chunk)
        for with_context in (False, True):
            group = [branch for branch in found if branch.context == with_context]
            if not group:
                continue
            seen = None
            if with_context:
                assert context is not None
                seen = context[:, part].flatten(0, 1).repeat(len(group), 1, 1)
            frames = noisy[:, part]
            rows = frames.flatten(0, 1).repeat(len(group), 1, 1, 1)
            words = torch.cat([text if branch.text else null_text.expand_as(text) for branch in group])
            words = words.repeat_interleave(frames.shape[1], dim=0)
            predicted = predict(unet, rows, time.expand(len(rows)), words, seen)
            for branch, one in zip(group, predicted.chunk(len(group)), strict=True):
                found[branch].append(one.unflatten(0, frames.shape[:2]))
    return {branch: torch.cat(parts, dim=1) for branch, parts in found.items()}


def denoise_frames(
    guided: Callable[[Tensor, Tensor], Tensor],
    *,
    noise: Tensor,
    scheduler: SchedulerMixin,
    steps: int,
    generators: Sequence[torch.Generator],
    first: Tensor | None = None,
) -> Tensor:
    """From noise to latents, with a prediction that is guided already.

    Args:
        guided: gives the prediction for (latents as the model wants to see them (B, F, C, h, w), time).
        noise: standard normal, (B, F, C, h, w).
        scheduler: of diffusers; it stays as it is.
        steps: denoising steps.
        generators: one a clip.
        first: first frames that are given, (B, C, h, w): at each step they get the noise of that step.

    Returns:
        Scaled latents, float32 (B, F, C, h, w).
    """
    plan = make_plan(scheduler, steps, noise.device)
    settings = step_settings(plan, generators)
    latents = noise * plan.init_noise_sigma
    for time in plan.timesteps:
        if first is not None:
            given = plan.add_noise(first, noise[:, 0], time.expand(len(first)))
            latents = torch.cat([given.unsqueeze(1), latents[:, 1:]], dim=1)
        prediction = guided(plan.scale_model_input(latents, time), time)
        latents = plan.step(prediction, time, latents, return_dict=False, **settings)[0]
    return latents if first is None else torch.cat([first.unsqueeze(1), latents[:, 1:]], dim=1)
