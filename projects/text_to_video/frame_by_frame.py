"""The frame-by-frame kind: a frozen image model denoises each frame of a clip, told what those before it show.

Frames that the model has made are not as clean as those that it learns from. So the frames that it is told of get
noise, of a level that a token tells, in training (of any level) and in sampling (of one that is chosen) alike.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from torch import Tensor, nn

from common.latent.noise import NoiseSchedule
from common.latent.steps import first_noise
from common.latent.unet import channels_of
from common.random import seeded
from common.types import Build
from projects.text_to_video.compat import load_published
from projects.text_to_video.conditioner import Conditioner
from projects.text_to_video.distributed import context_units
from projects.text_to_video.draws import ClipDraws
from projects.text_to_video.guidance import Guidance, combine
from projects.text_to_video.inject import Interface, inject
from projects.text_to_video.single_frames import (
    branch_predictions,
    chosen_targets,
    denoise_frames,
    errors_of_targets,
    frames_of,
    refuse_few,
)

LEVEL, INSTEAD = 0, 1  # places in the spare draws; those from INSTEAD on replace the first frame as a target


class FrameByFrame(nn.Module):
    """A frozen 2D UNet, a conditioner that trains and sees earlier frames only, and paths for its tokens that train.

    The first frame is the image model's, or given: training learns the others. The published model has no token for
    the level (width^2 + width parameters), always had level 1 in training and 0 in sampling, and a second noise of
    that kind on the context tokens.
    """

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
        most_noise: float = 1.0,
        sampling_noise: float = 0.1,
        target_token: bool = False,
        target_in_queries: bool = False,
        interface: Interface = "blocks",
        published_init: bool = False,
        published: str | None = None,
        checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        """
        Args:
            unet: recipe of the image model; it stays frozen.
            frames: most frames of a clip, at least 2.
            patch: side of the conditioner's patches, in cells of the latent grid.
            depth: its layers.
            queries: its context tokens a frame.
            heads: of its attention.
            dim_head: width of each head.
            width: of its tokens.
            targets: m, frames of a clip that a training step learns; at most as many as the data draws.
            most_noise: levels in training are uniform from 0 to this, as a standard deviation (clean latents have
                about 1).
            sampling_noise: level in sampling, at most `most_noise`.
            target_token: whether a token tells the number of the frame, which the published model has not.
            target_in_queries: whether it is added to the queries too.
            interface: where the UNet reads the context, see `projects.text_to_video.inject.inject`; "transformers" as
                published.
            published_init: initialise those paths as published, where the output is not the frozen one's.
            published: folder of a published training state to begin with; what of it fits is logged.
            checkpointing: recompute the conditioner's layers in the backward pass; the UNet has a setting of its own.
            seed: of the weights that are new.

        Raises:
            ValueError: clips of one frame, or levels out of order.
        """
        super().__init__()
        if frames < 2:
            raise ValueError(f"model.kind.frames={frames}: at least 2, the first is not learned")
        if not 0.0 <= sampling_noise <= most_noise <= 1.0:
            raise ValueError(
                f"model.kind.sampling_noise={sampling_noise} and most_noise={most_noise}: 0 to 1, the first no more "
                "than the second, which is what training shows"
            )
        self.targets, self.most_noise, self.sampling_noise = targets, most_noise, sampling_noise
        self.unet = unet()
        with seeded(seed):
            inject(self.unet, width=width, interface=interface, published_init=published_init)
            self.conditioner = Conditioner(
                channels=channels_of(self.unet)[0],
                frames=frames,
                patch=patch,
                depth=depth,
                queries=queries,
                heads=heads,
                dim_head=dim_head,
                width=width,
                time_token=False,
                target_token=target_token,
                target_in_queries=target_in_queries,
                level_token=True,
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
        """Weighted squared error of m frames of each clip, none of them the first.

        One noise serves both ends: frame j shows its share of it to the later targets as context, and is itself
        denoised from it as a target. No target sees its own.

        Args:
            clean: scaled latents, float32 (B, F, C, h, w).
            text: states of the captions, or of the null one where it is dropped, (B, L, D).
            draws: noise, one time a clip, target frames, which clips see their context, and the level of its noise.
            noise: the schedule.
            weigh: gives the weights (B,) for timesteps (B,).

        Returns:
            float32 (B,).
        """
        times = draws.timesteps
        targets = later_frames(chosen_targets(draws.targets, self.targets), draws.spare, clean.shape[1])
        level = draws.spare[:, LEVEL] * self.most_noise
        context = self.conditioner(self.blurred(clean, draws.noise, level), targets, level=level, causal=True)
        chosen, its_noise = frames_of(clean, targets), frames_of(draws.noise, targets)
        noisy = noise.add_noise(chosen, its_noise, times)
        goal = noise.target(chosen, its_noise, times)
        errors = errors_of_targets(self.unet, noisy, goal, times, text, context, draws.keep_context)
        return errors * weigh(times)

    @staticmethod
    def blurred(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Frames as the conditioner sees them: (B, F, C, h, w) with noise of a level (B,)."""
        return clean + level.view(-1, 1, 1, 1, 1) * noise

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
        """Clips, one frame after the other; the conditioner runs once a frame.

        All that is random comes from the clip's own generator, so a clip does not depend on its batch.

        Args:
            text: states of the captions, (B, L, D).
            null_text: of the null caption, (1, L, D).
            frames: F.
            shape: C, h, w of a latent.
            scheduler: any of diffusers that denoises latents; it stays as it is.
            steps: denoising steps of a frame.
            guidance: scales; the first frame has no context and follows the caption alone.
            generators: one a clip.
            first: first frames that are given, scaled, (B, C, h, w).

        Returns:
            Scaled latents, float32 (B, F, C, h, w).
        """
        noise, blur = (first_noise((frames, *shape), generators).to(text.device) for _ in range(2))
        level = torch.full((len(text),), self.sampling_noise, device=text.device)
        made = noise[:, :0]
        for number in range(frames):
            if number == 0 and first is not None:
                made = first.unsqueeze(1)
                continue
            context, scales = None, _without_context(guidance)
            if number > 0 and guidance.context_scale != 0.0:
                target = torch.full((len(text), 1), number, device=text.device)
                context = self.conditioner(self.blurred(made, blur[:, :number], level), target, level=level)
                scales = guidance
            frame = denoise_frames(
                self._guided(text, null_text, context, scales),
                noise=noise[:, number : number + 1],
                scheduler=scheduler,
                steps=steps,
                generators=generators,
            )
            made = torch.cat([made, frame], dim=1)
        return made

    def _guided(
        self, text: Tensor, null_text: Tensor, context: Tensor | None, guidance: Guidance
    ) -> Callable[[Tensor, Tensor], Tensor]:
        def guided(noisy: Tensor, time: Tensor) -> Tensor:
            found = branch_predictions(
                self.unet,
                noisy,
                time,
                text=text,
                null_text=null_text,
                context=context,
                guidance=guidance,
                chunk=1,
            )
            return combine(found, guidance)

        return guided


def later_frames(targets: Tensor, spare: Tensor, frames: int) -> Tensor:
    """Target frames with another, uniform one in place of the first frame, so that each is uniform in 1 .. F - 1.

    Args:
        targets: as drawn, int64 (B, m), different frames of 0 .. F - 1, so that the first comes once at most.
        spare: uniform numbers, (B, S).
        frames: F.
    """
    others = 1 + (spare[:, INSTEAD] * (frames - 1)).long().clamp(max=frames - 2)  # 0.99999997 * F may round to F
    return torch.where(targets == 0, others.unsqueeze(1), targets)


def _without_context(guidance: Guidance) -> Guidance:
    """The same guidance by the caption, of the frozen model; there is no contrast with context to restore."""
    return Guidance(text_scale=guidance.text_scale, context_scale=0.0)
