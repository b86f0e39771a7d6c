"""A FLUX transformer of few blocks: noisy latent tokens, a vector and context tokens in, the flow out.

The layers are diffusers' `FluxTransformer2DModel`, and so are their names in files. The pass through them is our own in
three places: the times stay in float32 until the first linear layer, each sample has coordinates of its own, and what
is recomputed in the backward pass is one block at a time.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.autocast import without_autocast
from common.config import suggest
from common.random import mix
from common.shapes import expect
from projects.genhancer.rotary import BatchedAttention, rotations

TIME_FACTOR = 1000.0  # of times in 0..1, and of the guidance, before their sinusoids


class Denoiser(nn.Module):
    """FLUX's blocks (2 double and 4 single of them, 1,310,154,816 parameters, as published)."""

    flux: Any  # a FluxTransformer2DModel, whose layers diffusers does not declare

    def __init__(self, *, flux: FluxTransformer2DModel, guidance: float | None, checkpointing: bool) -> None:
        """
        Args:
            flux: the layers.
            guidance: the constant that the guidance embedding gets; None where there is no such embedding.
            checkpointing: recompute the activations of each block in the backward pass.

        Raises:
            ValueError: a guidance and no embedding for it, or the reverse.
        """
        super().__init__()
        if (guidance is not None) != bool(flux.config.guidance_embeds):
            raise ValueError(
                f"denoiser.guidance={guidance}, but architecture.guidance_embeds={flux.config.guidance_embeds}: give "
                "both or neither"
            )
        flux.set_attn_processor(BatchedAttention())
        self.flux, self.guidance, self.checkpointing = flux, guidance, checkpointing

    def units(self) -> list[nn.Module]:
        """Blocks that are gathered and compiled one at a time."""
        return [*self.flux.transformer_blocks, *self.flux.single_transformer_blocks]

    def forward(
        self,
        noisy: Tensor,
        times: Tensor,
        vector: Tensor,
        context: Tensor,
        context_ids: Tensor,
        latent_ids: Tensor,
    ) -> Tensor:
        """The flow of each token.

        Args:
            noisy: x_t in tokens, (B, N, 4 C).
            times: t, float32 (B,), 0 (data) to 1 (noise).
            vector: what modulates the blocks, (B, V).
            context: tokens that the latent tokens attend to, (B, S, E).
            context_ids: their coordinates (time, row, column), float32 (B, S, 3).
            latent_ids: of the latent tokens, float32 (N, 3).

        Returns:
            float32 (B, N, 4 C).
        """
        expect(noisy, "B N D", name="noisy tokens", D=self.flux.config.in_channels)
        expect(times, "B", name="times", dtype=torch.float32)
        expect(context_ids, "B S A", name="context_ids", B=len(noisy), S=context.shape[1], A=3)
        ids = torch.cat([context_ids, latent_ids.expand(len(noisy), -1, -1)], dim=1)
        rotary = rotations(ids, self.flux.config.axes_dims_rope)
        modulation = self._modulation(times, vector)
        dtype = self.flux.x_embedder.weight.dtype
        latents, states = self.flux.x_embedder(noisy.to(dtype)), self.flux.context_embedder(context.to(dtype))
        for block in self.units():
            states, latents = self._run(block, latents, states, modulation, rotary)
        flow: Tensor = self.flux.proj_out(self.flux.norm_out(latents, modulation))
        return flow.float()

    def _run(self, block: nn.Module, latents: Tensor, states: Tensor, modulation: Tensor, rotary: Any) -> Any:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, latents, states, modulation, rotary, use_reentrant=False)
        return block(latents, states, modulation, rotary)

    def _modulation(self, times: Tensor, vector: Tensor) -> Tensor:
        """Embeddings of time, guidance and vector, summed: (B, width). Without autocast, as bfloat16 has no more than
        256 times between 0.5 and 1."""
        embed = self.flux.time_text_embed
        dtype = embed.text_embedder.linear_1.weight.dtype
        with without_autocast(vector):
            total = embed.timestep_embedder(embed.time_proj(times * TIME_FACTOR).to(dtype))
            if self.guidance is not None:
                guidance = torch.full_like(times, self.guidance * TIME_FACTOR)
                total = total + embed.guidance_embedder(embed.time_proj(guidance).to(dtype))
            modulation: Tensor = total + embed.text_embedder(vector.to(dtype))
        return modulation


def build_denoiser(
    *,
    architecture: Mapping[str, Any],
    guidance: float | None = 4.0,
    seed: int = 0,
    checkpointing: bool = False,
    compile: bool = False,
) -> Denoiser:
    """A denoiser with random float32 weights that depend on the seed alone.

    Args:
        architecture: arguments of `FluxTransformer2DModel`.
        guidance: as for `Denoiser`.
        seed: of the weights.
        checkpointing: as for `Denoiser`.
        compile: run `torch.compile` on each block.

    Raises:
        ValueError: an argument that is not known, or as for `Denoiser`.
    """
    known = sorted(set(inspect.signature(FluxTransformer2DModel.__init__).parameters) - {"self"})
    for name in architecture:
        if name not in known:
            raise ValueError(f"denoiser.architecture.{name}: {suggest(name, known)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("denoiser", seed))
        flux = FluxTransformer2DModel(**architecture)
    denoiser = Denoiser(flux=flux, guidance=guidance, checkpointing=checkpointing)
    if compile:
        for block in denoiser.units():
            block.compile()
    return denoiser
