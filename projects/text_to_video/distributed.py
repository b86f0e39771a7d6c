"""The distributed kind: a frozen image model denoises each frame of a clip, told what the other noisy frames look like.

The score of a noisy clip, taken for one frame, is that of the frame given all others. So a denoiser of single frames
that sees a summary of the whole noisy clip gives the joint score of the clip, and is trained on a few frames of it.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from torch import Tensor, nn

from common.latent.noise import NoiseSchedule
from common.latent.steps import first_noise
from common.latent.unet import blocks, channels_of
from common.random import seeded
from common.types import Build
from projects.text_to_video.compat import load_published
from projects.text_to_video.conditioner import Conditioner
from projects.text_to_video.draws import ClipDraws
from projects.text_to_video.guidance import Guidance, branches, combine
from projects.text_to_video.inject import ContextBlock, inject
from projects.text_to_video.single_frames import (
    branch_predictions,
    chosen_targets,
    denoise_frames,
    errors_of_targets,
    frames_of,
    refuse_few,
)


class Distributed(nn.Module):
    """A frozen 2D UNet, a conditioner that trains, and paths for its tokens in the UNet that train."""

    has_context: ClassVar[bool] = True

    def __init__(
        self,
        *,
        unet: Build[UNet2DConditionModel],
        frames: int,
        patch: int,
        depth: int,
        queries: int,
        heads: int,
        dim_head: int,
        width: int,
        targets: int,
        steps: int = 1000,
        target_in_queries: bool = False,
        published_init: bool = False,
        published: str | None = None,
        checkpointing: bool = False,
        chunk: int = 16,
        seed: int = 0,
    ) -> None:
        """
        Args:
            unet: recipe of the image model; it stays frozen.
            frames: most frames of a clip.
            patch: side of the conditioner's patches, in cells of the latent grid.
            depth: its layers.
            queries: its context tokens a frame.
            heads: of its attention.
            dim_head: width of each head.
            width: of its tokens.
            targets: m, frames of a clip that a training step learns; at most as many as the data draws.
            steps: timesteps of the noise schedule.
            target_in_queries: whether the number of the target frame is added to the queries too, which is learned
                sooner; not as published.
            published_init: initialise the paths in the UNet as published, where the output is not the frozen one's.
            published: folder of a published training state (config.json and the safetensors of a whole UNet with its
                conditioner) to begin with; what of it fits is logged.
            checkpointing: recompute the conditioner's layers in the backward pass; the UNet has a setting of its own.
            chunk: frames of a clip that are sampled together, to bound the memory.
            seed: of the weights that are new.
        """
        super().__init__()
        self.targets, self.chunk = targets, chunk
        self.unet = unet()
        with seeded(seed):
            inject(self.unet, width=width, interface="blocks", published_init=published_init)
            self.conditioner = Conditioner(
                channels=channels_of(self.unet)[0],
                frames=frames,
                patch=patch,
                depth=depth,
                queries=queries,
                heads=heads,
                dim_head=dim_head,
                width=width,
                steps=steps,
                target_in_queries=target_in_queries,
                checkpointing=checkpointing,
            )
        if published is not None:
            load_published(published, unet=self.unet, conditioner=self.conditioner)

    def units(self) -> list[nn.Module]:
        """Blocks for FSDP and compilation, none inside another."""
        return context_units(self.unet, self.conditioner)

    def refuse_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError for clips, (F, C, h, w), that the model cannot learn from."""
        self.conditioner.refuse_shape(shape[0], *shape[2:])
        refuse_few(shape[0], self.targets)

    def errors(
        self,
        clean: Tensor,
        *,
        text: Tensor,
        draws: ClipDraws,
        noise: NoiseSchedule,
        weigh: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Weighted squared error of m frames of each clip.

        Args:
            clean: scaled latents, float32 (B, F, C, h, w).
            text: states of the captions, or of the null one where it is dropped, (B, L, D).
            draws: noise, one time a clip, target frames, and which clips see their context.
            noise: the schedule.
            weigh: gives the weights (B,) for timesteps (B,).

        Returns:
            float32 (B,).
        """
        targets = chosen_targets(draws.targets, self.targets)
        noisy = noise.add_noise(clean, draws.noise, draws.timesteps)
        context = self.conditioner(noisy, targets, time=draws.timesteps)
        goal = noise.target(frames_of(clean, targets), frames_of(draws.noise, targets), draws.timesteps)
        errors = errors_of_targets(
            self.unet, frames_of(noisy, targets), goal, draws.timesteps, text, context, draws.keep_context
        )
        return errors * weigh(draws.timesteps)

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
        """Clips, all frames denoised together; the conditioner runs once a step for all of them.

        All that is random comes from the clip's own generator, so a clip does not depend on its batch.

        Args:
            text: states of the captions, (B, L, D).
            null_text: of the null caption, (1, L, D).
            frames: F.
            shape: C, h, w of a latent.
            scheduler: any of diffusers that denoises latents; it stays as it is.
            steps: denoising steps.
            guidance: scales.
            generators: one a clip.
            first: first frames that are given, scaled, (B, C, h, w).

        Returns:
            Scaled latents, float32 (B, F, C, h, w).
        """
        targets = torch.arange(frames, device=text.device).expand(len(text), -1)
        wanted = any(branch.context for branch in branches(guidance))

        def guided(noisy: Tensor, time: Tensor) -> Tensor:
            context = None
            if wanted:
                context = self.conditioner(noisy, targets, time=time.expand(len(text)), chunk=self.chunk)
            found = branch_predictions(
                self.unet,
                noisy,
                time,
                text=text,
                null_text=null_text,
                context=context,
                guidance=guidance,
                chunk=self.chunk,
            )
            return combine(found, guidance)

        noise = first_noise((frames, *shape), generators).to(text.device)
        return denoise_frames(guided, noise=noise, scheduler=scheduler, steps=steps, generators=generators, first=first)


def context_units(unet: UNet2DConditionModel, conditioner: Conditioner) -> list[nn.Module]:
    """Blocks of a UNet with paths for context, and layers of its conditioner: nearly all parameters."""
    whole: Any = unet
    return [
        *blocks(whole),
        *(each for each in whole.modules() if isinstance(each, ContextBlock)),
        *conditioner.layers,
    ]
