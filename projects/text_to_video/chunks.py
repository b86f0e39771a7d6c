"""Clips made window by window: the first frames of a window are known, the others are denoised together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn

from common.latent.noise import NoiseSchedule
from common.latent.steps import first_noise
from common.latent.unet import blocks
from common.random import seeded
from common.types import Build
from projects.text_to_video.draws import ClipDraws
from projects.text_to_video.guidance import Guidance, refuse_context
from projects.text_to_video.motion import Predict, add_motion, guided_by_text, predict, read_motion
from projects.text_to_video.single_frames import denoise_frames


class Window(NamedTuple):
    """Windows of W frames that a training step learns.

    Attributes:
        frames: int64 (B, W), which frames of the clip.
        known: bool (B, W), the context.
        level: float32 (B,), sigma of its noise.
    """

    frames: Tensor
    known: Tensor
    level: Tensor


class Chunks(nn.Module):
    """Autoregression by windows on a UNet with temporal layers.

    The model sees the frames of a window together. Those of the context are clean latents x with a little noise e,
    sqrt(1 - sigma^2) x + sigma e, and a further input channel says which they are and how clean: 1 - sigma there, 0 in
    frames that are to be made. It is the same in training and in sampling, where what was made before is the context.
    """

    has_context: ClassVar[bool] = False
    unet: Any  # a UNetMotionModel, whose layers diffusers does not declare

    def __init__(
        self,
        *,
        unet: Build[UNet2DConditionModel | UNetMotionModel],
        train_spatial: bool,
        window: int = 16,
        context: int = 4,
        motion: Mapping[str, Any] | None = None,
        context_noise: float = 0.3,
        sampling_noise: float = 0.1,
        anchor: bool = False,
        seed: int = 0,
    ) -> None:
        """
        Args:
            unet: recipe of the text-to-image UNet.
            train_spatial: whether the layers of that UNet train too, or the temporal ones and the first convolution.
            window: W, frames that are seen together; clips have at least as many.
            context: the most known frames of a window; in training 0 to as many.
            motion: size of the temporal layers, see `projects.text_to_video.motion.Motion`.
            context_noise: sigma in training is uniform from 0 to this, below 1.
            sampling_noise: sigma in sampling, at most as much.
            anchor: the first frame of the clip takes the place of the first of two or more known frames.
            seed: of the weights that are new.

        Raises:
            ValueError: a setting that is unknown or out of its range, or a UNet that takes no temporal layers.
        """
        super().__init__()
        if not 1 <= context < window:
            raise ValueError(f"model.kind.context={context}: at least one frame and fewer than window={window}")
        if not 0.0 <= sampling_noise <= context_noise < 1.0:
            raise ValueError(
                f"model.kind.sampling_noise={sampling_noise} and context_noise={context_noise}: 0 <= sampling_noise <= "
                "context_noise < 1, so that sampling shows what training has shown"
            )
        if anchor and context < 2:
            raise ValueError("model.kind.anchor=true: the first frame and the one before need context=2 or more")
        self.window, self.context, self.anchor = window, context, anchor
        self.context_noise, self.sampling_noise = context_noise, sampling_noise
        base = unet()
        with seeded(seed):
            self.unet = add_motion(base, frames=window, motion=read_motion(motion), train_spatial=train_spatial, more=1)

    def units(self) -> list[nn.Module]:
        """Blocks that are gathered and compiled one at a time."""
        return blocks(self.unet)

    def refuse_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError for clips, (F, C, h, w), that the model cannot learn from."""
        self._refuse_length(shape[0])

    def errors(
        self,
        clean: Tensor,
        *,
        text: Tensor,
        draws: ClipDraws,
        noise: NoiseSchedule,
        weigh: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Weighted squared error of the new frames of a window of each clip.

        Args:
            clean: scaled latents, float32 (B, F, C, h, w).
            text: states of the captions, (B, L, D).
            draws: noise, one timestep a clip, and in `spare` what `choose` takes.
            noise: what is added and learned.
            weigh: weights of timesteps.

        Returns:
            float32 (B,).

        Raises:
            ValueError: clips shorter than the window.
        """
        chosen = self.choose(draws.spare, clean.shape[1])
        rows = torch.arange(len(clean), device=clean.device)[:, None]
        seen, added = clean[rows, chosen.frames], draws.noise[rows, chosen.frames]
        noisy = noise.add_noise(seen, added, draws.timesteps)
        mixed = torch.where(_wide(chosen.known), with_noise(seen, added, chosen.level), noisy)
        prediction = self.predict(mixed, chosen.known, chosen.level, draws.timesteps, text)
        difference = prediction.float() - noise.target(seen, added, draws.timesteps)
        new = ~chosen.known
        errors = (difference.square().flatten(2).mean(dim=2) * new).sum(dim=1) / new.sum(dim=1)
        return errors * weigh(draws.timesteps)

    def choose(self, spare: Tensor, frames: int) -> Window:
        """What a step learns of clips.

        Args:
            spare: uniform in 0..1, (B, 3 or more): length of the context, its noise, place of the window.
            frames: F, of the clips.

        Raises:
            ValueError: clips shorter than the window.
        """
        self._refuse_length(frames)
        places = torch.arange(self.window, device=spare.device)
        exact = spare.double()  # in float32 a product could be rounded up to the next whole number
        count = (exact[:, 0] * (self.context + 1)).long()[:, None]
        start = (exact[:, 2] * (frames - self.window + 1)).long()[:, None]
        chosen = start + places
        if self.anchor:
            chosen = torch.where((places == 0) & (count >= 2), 0, chosen)
        return Window(chosen, places < count, spare[:, 1] * self.context_noise)

    def predict(self, mixed: Tensor, known: Tensor, level: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The prediction for all frames of windows; that of known frames means nothing.

        Args:
            mixed: known frames with their little noise, others as noisy as t says, (B, W, C, h, w).
            known: bool (B, W).
            level: sigma of the known ones, (B,).
            t: timesteps, (B,).
            text: states of the captions, (B, L, D).

        Returns:
            (B, W, C, h, w).
        """
        told = _wide(known * (1 - level)[:, None]).expand(*mixed.shape[:2], 1, *mixed.shape[3:])
        return predict(self.unet, torch.cat([mixed, told.to(mixed.dtype)], dim=2), t, text)

    @torch.no_grad()
    def sample(
        self,
        *,
        text: Tensor,
        null_text: Tensor,
        frames: int,
        shape: tuple[int, ...],
        scheduler: SchedulerMixin,
        steps: int,
        guidance: Guidance,
        generators: Sequence[torch.Generator],
        first: Tensor | None = None,
    ) -> Tensor:
        """Clips of captions: W frames, then W - context at a time; frames of the last window beyond the end are cut.

        Args:
            text: states of the captions, (B, L, D).
            null_text: of the null caption, (1, L, D).
            frames: how many, at least W.
            shape: C, h, w of a latent.
            scheduler: any of diffusers that denoises latents.
            steps: denoising steps of each window.
            guidance: by the caption; context_scale is 1.
            generators: one a clip, on which alone its noise depends.
            first: scaled latents of first frames, (B, C, h, w): the context of the first window.

        Returns:
            Scaled latents, float32 (B, frames, C, h, w).

        Raises:
            ValueError: fewer frames than a window, or guidance by a context.
        """
        refuse_context(guidance, kind=Chunks)
        self._refuse_length(frames)
        made = text.new_empty(len(text), 0, *shape, dtype=torch.float32) if first is None else first.float()[:, None]
        while made.shape[1] < frames:
            noise = first_noise((self.window, *shape), generators).to(text.device)
            context = self._context(made)
            count = context.shape[1]
            new = denoise_frames(
                guided_by_text(
                    self._known(context, noise[:, :count]), text=text, null_text=null_text, guidance=guidance
                ),
                noise=noise[:, count:],
                scheduler=scheduler,
                steps=steps,
                generators=generators,
            )
            made = torch.cat([made, new], dim=1)
        return made[:, :frames]

    def _context(self, made: Tensor) -> Tensor:
        """The known frames of the next window, as `choose` takes them."""
        context = made[:, -self.context :]
        if self.anchor and context.shape[1] >= 2:
            context = torch.cat([made[:, :1], context[:, 1:]], dim=1)
        return context

    def _known(self, context: Tensor, noise: Tensor) -> Predict:
        """The model for the new frames of windows whose others are known, (B, count, C, h, w)."""
        count = context.shape[1]
        known = torch.arange(self.window, device=context.device) < count
        shown = with_noise(context, noise, context.new_full((len(context),), self.sampling_noise))

        def predict_new(noisy: Tensor, t: Tensor, text: Tensor) -> Tensor:
            branches = len(noisy) // len(shown)
            mixed = torch.cat([shown.repeat(branches, 1, 1, 1, 1), noisy], dim=1)
            level = noisy.new_full((len(noisy),), self.sampling_noise)
            return self.predict(mixed, known.expand(len(noisy), -1), level, t, text)[:, count:]

        return predict_new

    def _refuse_length(self, frames: int) -> None:
        if frames < self.window:
            raise ValueError(
                f"clips of {frames} frames are shorter than model.kind.window={self.window}; choose a smaller window "
                "or longer clips"
            )


def with_noise(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """sqrt(1 - sigma^2) x + sigma e for frames (B, W, C, h, w); `level` is sigma, (B,)."""
    sigma = level.view(-1, 1, 1, 1, 1)
    return (1 - sigma**2).sqrt() * clean + sigma * noise


def _wide(each: Tensor) -> Tensor:
    """(B, W) as it is broadcast over latents."""
    return each[:, :, None, None, None]
