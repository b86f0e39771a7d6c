"""FLUX in plain formulas, read from its paper's description and written with a state dict alone.

Rotations are complex numbers, attention is written out, modulation is unfolded: no layer under test is used.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]
OUTPUTS = (("to_add_out", "ff_context"), ("to_out.0", "ff"))  # of text and of image


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()


def rms(state: State, name: str, x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"]


def sinusoid(value: Tensor) -> Tensor:
    angles = 1000 * value[:, None] * torch.exp(-math.log(10_000) * torch.arange(128).to(value) / 128)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def mlp(state: State, name: str, x: Tensor) -> Tensor:
    return linear(state, f"{name}.linear_2", functional.silu(linear(state, f"{name}.linear_1", x)))


def turn(x: Tensor, ids: Tensor, axes: tuple[int, ...]) -> Tensor:
    """x (B, heads, S, width), ids (B, S, 3)."""
    angles = torch.cat(
        [ids[..., [i]] / 10_000 ** (torch.arange(0, width, 2).to(x) / width) for i, width in enumerate(axes)], dim=-1
    )
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)


def attend(query: Tensor, key: Tensor, value: Tensor, ids: Tensor, axes: tuple[int, ...]) -> Tensor:
    query, key = turn(query, ids, axes), turn(key, ids, axes)
    weights = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def double_block(state: State, name: str, image: Tensor, text: Tensor, vec: Tensor, ids: Tensor, n: int, axes):
    """An MM-DiT block: two streams with weights of their own, one attention, text first."""
    streams = []
    for x, modulation, q, k, v, norm_q, norm_k in (
        (text, "norm1_context", "add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k"),
        (image, "norm1", "to_q", "to_k", "to_v", "norm_q", "norm_k"),
    ):
        shares = linear(state, f"{name}.{modulation}.linear", functional.silu(vec))[:, None].chunk(6, -1)
        shift, scale = shares[:2]
        changed = (1 + scale) * norm(x) + shift
        query, key, value = (heads(linear(state, f"{name}.attn.{part}", changed), n) for part in (q, k, v))
        query, key = rms(state, f"{name}.attn.{norm_q}", query), rms(state, f"{name}.attn.{norm_k}", key)
        streams.append((x, shares, query, key, value))
    joined = (torch.cat([stream[i] for stream in streams], dim=2) for i in (2, 3, 4))
    mixed = attend(*joined, ids, axes).split([text.shape[1], image.shape[1]], dim=1)
    results = []
    for (x, shares, *_), part, out, ff in zip(
        streams, mixed, ("to_add_out", "to_out.0"), ("ff_context", "ff"), strict=True
    ):
        x = x + shares[2] * linear(state, f"{name}.attn.{out}", part)
        inner = linear(state, f"{name}.{ff}.net.0.proj", (1 + shares[4]) * norm(x) + shares[3])
        x = x + shares[5] * linear(state, f"{name}.{ff}.net.2", functional.gelu(inner, approximate="tanh"))
        results.append(x)
    return results


def single_block(state: State, name: str, x: Tensor, vec: Tensor, ids: Tensor, n: int, axes) -> Tensor:
    """Attention and MLP side by side on all tokens."""
    shift, scale, gate = linear(state, f"{name}.norm.linear", functional.silu(vec))[:, None].chunk(3, -1)
    changed = (1 + scale) * norm(x) + shift
    query, key, value = (heads(linear(state, f"{name}.attn.{part}", changed), n) for part in ("to_q", "to_k", "to_v"))
    query, key = rms(state, f"{name}.attn.norm_q", query), rms(state, f"{name}.attn.norm_k", key)
    inner = functional.gelu(linear(state, f"{name}.proj_mlp", changed), approximate="tanh")
    both = torch.cat([attend(query, key, value, ids, axes), inner], dim=-1)
    return x + gate * linear(state, f"{name}.proj_out", both)


def flux(
    state: State,
    noisy: Tensor,
    times: Tensor,
    vector: Tensor,
    context: Tensor,
    ids: Tensor,
    *,
    guidance: float,
    heads: int,
    axes: tuple[int, ...],
    double: int,
    single: int,
) -> Tensor:
    """The flow (B, N, 4 C); `ids` (B, S + N, 3) are those of the context, then of the latents."""
    embed = "time_text_embed"
    vec = mlp(state, f"{embed}.timestep_embedder", sinusoid(times))
    vec = vec + mlp(state, f"{embed}.guidance_embedder", sinusoid(torch.full_like(times, guidance)))
    vec = vec + mlp(state, f"{embed}.text_embedder", vector)
    image, text = linear(state, "x_embedder", noisy), linear(state, "context_embedder", context)
    for i in range(double):
        text, image = double_block(state, f"transformer_blocks.{i}", image, text, vec, ids, heads, axes)
    x = torch.cat([text, image], dim=1)
    for i in range(single):
        x = single_block(state, f"single_transformer_blocks.{i}", x, vec, ids, heads, axes)
    scale, shift = linear(state, "norm_out.linear", functional.silu(vec))[:, None].chunk(2, -1)
    return linear(state, "proj_out", (1 + scale) * norm(x[:, text.shape[1] :]) + shift)
