"""The denoiser in the names of FLUX's own code, which the published files use; diffusers' are other ones."""

from collections.abc import Mapping

import torch
from torch import Tensor

# diffusers -> FLUX; "{}" is the number of a block.
WHOLE = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_q": "img_attn.qkv",
    "attn.to_k": "img_attn.qkv",
    "attn.to_v": "img_attn.qkv",
    "attn.add_q_proj": "txt_attn.qkv",
    "attn.add_k_proj": "txt_attn.qkv",
    "attn.add_v_proj": "txt_attn.qkv",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.to_q": "linear1",
    "attn.to_k": "linear1",
    "attn.to_v": "linear1",
    "proj_mlp": "linear1",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "proj_out": "linear2",
}
BLOCKS = {"transformer_blocks": ("double_blocks", DOUBLE), "single_transformer_blocks": ("single_blocks", SINGLE)}


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `FluxTransformer2DModel` as FLUX's own code names, joins and orders them.

    Queries, keys and values are one layer there, with the first layer of the MLP in single blocks; the two halves of
    the last modulation are the other way round.
    """
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    for name, value in state.items():
        published, place = _published(name)
        parts.setdefault(published, []).append((place, value))
    joined = {}
    for name, members in parts.items():
        tensors = [value for _, value in sorted(members, key=lambda member: member[0])]
        joined[name] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        if name.startswith("final_layer.adaLN_modulation"):
            scale, shift = joined[name].chunk(2)
            joined[name] = torch.cat([shift, scale])
    return joined


def _published(name: str) -> tuple[str, int]:
    """Its name there, and its place among the parts of that tensor."""
    layer, _, kind = name.rpartition(".")
    stack, _, rest = layer.partition(".")
    if stack not in BLOCKS:
        return f"{WHOLE[layer]}.{kind}", 0
    number, _, own = rest.partition(".")
    prefix, table = BLOCKS[stack]
    kind = "scale" if ".norm_" in f".{own}" and own.startswith("attn.") else kind
    return f"{prefix}.{number}.{table[own]}.{kind}", list(table).index(own)
