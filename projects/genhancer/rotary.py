"""Rotary embeddings (arXiv:2104.09864) of three axes, with coordinates that differ from sample to sample."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

THETA = 10_000.0


def rotations(ids: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles by which pairs of a head's numbers are turned.

    Args:
        ids: coordinates, (B, S, A).
        axes: how many numbers of a head belong to each of the A axes.

    Returns:
        float32 (B, S, 1, sum(axes) / 2) each; the angles are float64 where there is that.
    """
    exact = torch.float32 if ids.device.type == "mps" else torch.float64
    angles = []
    for axis, width in enumerate(axes):
        exponents = torch.arange(0, width, 2, dtype=exact, device=ids.device) / width
        angles.append(ids[..., axis, None].to(exact) * THETA**-exponents)
    turned = torch.cat(angles, dim=-1).unsqueeze(2)
    return turned.cos().float(), turned.sin().float()


def rotate(states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turns neighbouring pairs of the last dimension, in float32; (B, S, heads, width) in the dtype it came in."""
    cosine, sine = rotary
    first, second = states.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.flatten(-2).to(states.dtype)


class BatchedAttention:
    """Attention of FLUX's blocks as diffusers' processor does it, but for coordinates of each sample."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention over the context, which comes first, and the latent tokens; diffusers chose the names.

        Args:
            attn: a `FluxAttention`; in double blocks with projections of the context of its own.
            hidden_states: latent tokens of a double block, all tokens of a single one.
            encoder_hidden_states: the context of a double block.
            attention_mask: unused; every token sees every other.
            image_rotary_emb: from `rotations`, for all tokens.

        Returns:
            In double blocks latent tokens and context, in single ones all tokens.
        """
        assert attention_mask is None
        assert image_rotary_emb is not None
        layers = (attn.to_q, attn.to_k, attn.to_v)
        query, key, value = (_heads(layer(hidden_states), attn) for layer in layers)
        query, key = _normed(query, attn.norm_q), _normed(key, attn.norm_k)
        if encoder_hidden_states is not None:
            added = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            asked, known, told = (_heads(layer(encoder_hidden_states), attn) for layer in added)
            query = torch.cat([_normed(asked, attn.norm_added_q), query], dim=1)
            key = torch.cat([_normed(known, attn.norm_added_k), key], dim=1)
            value = torch.cat([told, value], dim=1)
        query, key = rotate(query, image_rotary_emb).to(value.dtype), rotate(key, image_rotary_emb).to(value.dtype)
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        states = mixed.transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return states
        length = encoder_hidden_states.shape[1]
        context, latents = states[:, :length], states[:, length:]
        return attn.to_out[1](attn.to_out[0](latents)), attn.to_add_out(context)


def _heads(states: Tensor, attn: Any) -> Tensor:
    """(B, S, heads x width) to (B, S, heads, width)."""
    return states.unflatten(-1, (-1, attn.head_dim))


def _normed(states: Tensor, norm: Any) -> Tensor:
    """Norm of queries or keys in float32, which is what is turned next; mixed dtypes would miss the fused kernel."""
    return functional.rms_norm(states.float(), norm.normalized_shape, norm.weight.float(), norm.eps)
