"""All frames of a clip denoised together by a UNet with temporal layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn

from common.latent.noise import NoiseSchedule, squared_errors
from common.latent.steps import first_noise
from common.latent.unet import blocks
from common.random import seeded
from common.types import Build
from projects.text_to_video.draws import ClipDraws
from projects.text_to_video.guidance import Guidance, refuse_context
from projects.text_to_video.motion import add_motion, guided_by_text, paths, positions, predict, read_motion
from projects.text_to_video.single_frames import chosen_targets, denoise_frames, frames_of


class Joint(nn.Module):
    """AnimateDiff (arXiv:2307.04725) on a text-to-image UNet, with images mixed in (arXiv:2204.03458, section 3.1).

    In SD 2.1 the temporal layers have 417,137,600 parameters, 453,209,280 with those of the middle block, beside the
    865,910,724 of the UNet.
    """

    has_context: ClassVar[bool] = False
    unet: Any  # a UNetMotionModel, whose layers diffusers does not declare

    def __init__(
        self,
        *,
        unet: Build[UNet2DConditionModel | UNetMotionModel],
        frames: int,
        train_spatial: bool,
        motion: Mapping[str, Any] | None = None,
        images: float = 0.0,
        targets: int | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            unet: recipe of the text-to-image UNet.
            frames: F, the most frames of a clip.
            train_spatial: whether the layers of that UNet train too, or the temporal ones alone.
            motion: size of the temporal layers, see `projects.text_to_video.motion.Motion`.
            images: share of clips that are taken for F images: the temporal layers let them pass, so that the others
                learn from them and keep what they know of images.
            targets: m, frames of a clip that a step learns, any of it, each at its own place (arXiv:2205.11495): with a
                quarter of the frames a step sees four times as many clips for the same work. None for all of them.
            seed: of the weights that are new.

        Raises:
            ValueError: a setting that is unknown or out of its range, images where nothing would learn from them, or a
                UNet that takes no temporal layers.
        """
        super().__init__()
        if not 0.0 <= images < 1.0:
            raise ValueError(f"model.kind.images={images}: a share of the clips, from 0 to below 1")
        if images and not train_spatial:
            raise ValueError(
                f"model.kind.images={images}, but images bypass the temporal layers, and with train_spatial=false no "
                "others learn; set images=0 or train_spatial=true"
            )
        if targets is not None and not 1 < targets <= frames:
            raise ValueError(f"model.kind.targets={targets}: from 2 frames of a clip to all {frames}")
        self.frames, self.images, self.targets = frames, images, targets
        base = unet()
        with seeded(seed):
            self.unet = add_motion(base, frames=frames, motion=read_motion(motion), train_spatial=train_spatial)

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
        """Weighted squared error of each clip.

        Which clips are images is never read back from the device, and all clips are one call whatever they are: the
        shapes, and with FSDP the calls of all ranks, stay the same.

        Args:
            clean: scaled latents, float32 (B, F, C, h, w).
            text: states of the captions, (B, L, D).
            draws: noise, one timestep a clip, its target frames, and in `spare[:, 0]` what decides whether a clip is
                taken for images.
            noise: what is added and learned.
            weigh: weights of timesteps.

        Returns:
            float32 (B,).

        Raises:
            ValueError: clips longer than the model is built for, or fewer target frames than it learns.
        """
        self._refuse_length(clean.shape[1])
        self._bypass(draws.spare[:, 0] < self.images if self.images else None)
        added = draws.noise
        if self.targets is not None:
            places = chosen_targets(draws.targets, self.targets).sort(dim=1).values
            clean, added = frames_of(clean, places), frames_of(added, places)
            self._place(places)
        noisy = noise.add_noise(clean, added, draws.timesteps)
        prediction = predict(self.unet, noisy, draws.timesteps, text)
        errors = squared_errors(prediction, noise.target(clean, added, draws.timesteps))
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
        """Clips of captions.

        A first frame is given to the model as in inpainting: before each step its latent, with as much noise as the
        others have, takes the place of the first one. The model was not trained for it, so it may lose sight of it.

        Args:
            text: states of the captions, (B, L, D).
            null_text: of the null caption, (1, L, D).
            frames: how many, at most F.
            shape: C, h, w of a latent.
            scheduler: any of diffusers that denoises latents.
            steps: denoising steps.
            guidance: by the caption; context_scale is 1.
            generators: one a clip, on which alone its noise depends.
            first: scaled latents of first frames, (B, C, h, w).

        Returns:
            Scaled latents, float32 (B, frames, C, h, w).

        Raises:
            ValueError: more frames than the model is built for, or guidance by a context.
        """
        refuse_context(guidance, kind=Joint)
        self._refuse_length(frames)
        self._bypass(None)
        self._place(None)
        noise = first_noise((frames, *shape), generators).to(text.device)

        def predict_all(noisy: Tensor, t: Tensor, states: Tensor) -> Tensor:
            return predict(self.unet, noisy, t, states)

        return denoise_frames(
            guided_by_text(predict_all, text=text, null_text=null_text, guidance=guidance),
            noise=noise,
            scheduler=scheduler,
            steps=steps,
            generators=generators,
            first=None if first is None else first.float(),
        )

    def _bypass(self, clips: Tensor | None) -> None:
        """Stays set until the next call: what is recomputed in the backward pass needs it."""
        for path in paths(self.unet):
            path.bypass = clips

    def _place(self, places: Tensor | None) -> None:
        """Stays set likewise."""
        for each in positions(self.unet):
            each.places = places

    def _refuse_length(self, frames: int) -> None:
        if frames > self.frames:
            raise ValueError(f"clips of {frames} frames, but model.kind.frames={self.frames} is the most; shorten them")
