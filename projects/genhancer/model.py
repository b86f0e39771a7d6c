"""What rebuilds a picture from vectors of CLIP: projectors and denoiser, and how wrong it is."""

from collections.abc import Sequence
from math import isqrt
from typing import cast

import torch
from torch import Tensor, nn

from common.latent.noise import squared_errors
from common.latent.steps import first_noise
from common.shapes import expect
from common.types import Build
from projects.genhancer import flow
from projects.genhancer.denoiser import Denoiser
from projects.genhancer.draws import Draws
from projects.genhancer.packing import class_coordinates, latent_coordinates, pack, patch_coordinates, unpack
from projects.genhancer.projectors import Heads, PatchAdapter

CLASS, PATCHES = "class", "patches"


class Reconstructor(nn.Module):
    """GenHancer's generator (arXiv:2503.19480, section 4): rectified flow from noise to the target's latents.

    With `condition="class"` each of K frames gives one context token and its share of the vector; an image is the case
    K = 1 at the target's own time. With `condition="patches"`, which the paper shows to fail, the context is all
    patches of all frames.
    """

    def __init__(
        self,
        *,
        denoiser: Build[Denoiser],
        width: int,
        patch_width: int | None = None,
        condition: str = CLASS,
        time_scale: float | None = 1.0,
        time_location: float = 0.0,
        units_per_second: float = 4.0,
    ) -> None:
        """
        Args:
            denoiser: its recipe.
            width: D of a class embedding.
            patch_width: of a patch state; only for "patches".
            condition: "class" or "patches".
            time_scale: s of the training times t = sigmoid(s n); None draws them uniformly.
            time_location: see `flow.times_of`.
            units_per_second: how many sides of a token a second of video counts in the coordinates.

        Raises:
            ValueError: an unknown condition, or patches of no width.
        """
        super().__init__()
        if condition not in (CLASS, PATCHES) or (condition == PATCHES) != (patch_width is not None):
            raise ValueError(
                f'model.reconstructor.condition={condition}: "{CLASS}", or "{PATCHES}" with patch_width, the width of '
                "the tower's patch states"
            )
        self.denoiser = denoiser()
        config = self.denoiser.flux.config
        vector, context = int(config.pooled_projection_dim), int(config.joint_attention_dim)
        self.heads = Heads(width=width, vector=vector, context=context if condition == CLASS else None)
        self.adapter = None if patch_width is None else PatchAdapter(hidden=patch_width, context=context)
        self.condition, self.units_per_second = condition, units_per_second
        self.time_scale, self.time_location = time_scale, time_location

    def units(self) -> list[nn.Module]:
        """Blocks that are gathered and compiled one at a time."""
        return self.denoiser.units()

    def errors(
        self,
        embeddings: Tensor,
        times: Tensor,
        latents: Tensor,
        draws: Draws,
        *,
        patches: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the flow of each sample.

        Args:
            embeddings: class embeddings of the condition frames, (B, K, D); gradients flow into them.
            times: of the condition frames, then of the target, in seconds: float32 (B, K + 1).
            latents: scaled latents of the target, float32 (B, C, h, w).
            draws: noise and the normal numbers that the times of the flow come from.
            patches: states of the condition frames, (B, K, P, hidden); for "patches" alone.

        Returns:
            float32 (B,).
        """
        t = flow.times_of(draws.normal, scale=self.time_scale, location=self.time_location)
        noisy = flow.interpolate(latents, draws.noise, t)
        prediction = self(noisy, t, embeddings, times, patches=patches)
        return squared_errors(prediction, flow.target(latents, draws.noise))

    def forward(
        self, noisy: Tensor, t: Tensor, embeddings: Tensor, times: Tensor, *, patches: Tensor | None = None
    ) -> Tensor:
        """The flow at x_t: float32 (B, C, h, w). The arguments are those of `errors`, with x_t and t (B,)."""
        height, width = noisy.shape[-2:]
        context, places = self._context(embeddings, patches, self._relative(times, embeddings), (height, width))
        tokens = self.denoiser(
            pack(noisy),
            t,
            self.heads.vector(embeddings),
            context,
            places,
            latent_coordinates(height, width, device=noisy.device),
        )
        return unpack(tokens, height, width)

    @torch.no_grad()
    def sample(
        self,
        embeddings: Tensor,
        times: Tensor,
        *,
        shape: tuple[int, int, int],
        steps: int,
        generators: Sequence[torch.Generator],
        patches: Tensor | None = None,
    ) -> Tensor:
        """Targets by Euler steps along FLUX's shifted times.

        Args:
            embeddings: (B, K, D), as for `errors`; so are `times` and `patches`.
            times: (B, K + 1).
            shape: C, h, w of a latent.
            steps: at least 1; 20 to 50 are usual.
            generators: one a sample, on which alone its noise depends.
            patches: for "patches" alone.

        Returns:
            Scaled latents, float32 (B, C, h, w).
        """
        noise = first_noise(shape, generators).to(embeddings.device)
        schedule = flow.sampling_times(steps, pack(noise[:1]).shape[1])
        return flow.euler(lambda state, t: self(state, t, embeddings, times, patches=patches), noise, schedule)

    def _relative(self, times: Tensor, embeddings: Tensor) -> Tensor:
        """Times of the conditions from the target's, in units of the coordinates, (B, K): only differences count."""
        expect(times, "B K", name="times", B=len(embeddings), K=embeddings.shape[1] + 1)
        return (times[:, :-1] - times[:, -1:]).float() * self.units_per_second

    def _context(
        self, embeddings: Tensor, patches: Tensor | None, times: Tensor, cells: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Context tokens (B, S, E) and their coordinates (B, S, 3)."""
        if (patches is None) != (self.adapter is None):
            raise ValueError(f"patches are given or left out against condition={self.condition}")
        if self.adapter is None or patches is None:
            return self.heads.context(embeddings), class_coordinates(times)
        side = isqrt(patches.shape[2])
        expect(patches, "B K P D", name="patches", B=len(embeddings), K=embeddings.shape[1], P=side * side)
        target = (cells[0] // 2, cells[1] // 2)
        return cast(Tensor, self.adapter(patches)), patch_coordinates(times, (side, side), target)
