"""Causal language models, published or random, frozen or trained."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from common.random import mix
from common.weights.pretrained import load_pretrained


def build_causal_lm(
    *,
    weights: str,
    architecture: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    checkpoint_fraction: float = 0.0,
    compile_blocks: bool = False,
    seed: int = 0,
) -> PreTrainedModel:
    """A decoder with its head.

    Args:
        weights: Hub id or folder, or "random" for `architecture` with random weights.
        architecture: `model_type` and the arguments of its config class; only for "random".
        dtype: of the weights: bfloat16 for frozen ones, float32 for those that train.
        checkpoint_fraction: share of blocks, from the first, that recompute their activations in the backward pass.
        compile_blocks: run `torch.compile` on each block.
        seed: of the random weights.

    Raises:
        ValueError: "random" without an architecture, or a fraction outside 0..1.
    """
    if not 0 <= checkpoint_fraction <= 1:
        raise ValueError(f"checkpoint_fraction={checkpoint_fraction}: a share of the blocks, 0..1")
    if weights == "random":
        model = _random(architecture, dtype=getattr(torch, dtype), seed=seed)
    else:
        model = load_pretrained(AutoModelForCausalLM, weights, dtype=getattr(torch, dtype))
    model.config.use_cache = False
    recompute(blocks(model), fraction=checkpoint_fraction)
    if compile_blocks:
        for block in blocks(model):
            block.compile()
    return model


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks of a causal language model."""
    layers = model.get_decoder().layers  # type: ignore[no-untyped-call]
    assert isinstance(layers, nn.ModuleList)
    return layers


def recompute(layers: nn.ModuleList, *, fraction: float) -> None:
    """Turns activation checkpointing on for the first `fraction` of the blocks and off for the others.

    Only the blocks themselves are put into training mode, which checkpointing asks for; the dropout inside a frozen
    model stays off.
    """
    count = math.ceil(fraction * len(layers))
    for position, layer in enumerate(layers):
        assert isinstance(layer, GradientCheckpointingLayer)
        layer.gradient_checkpointing = position < count
        layer.training |= position < count
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]


def _random(architecture: Mapping[str, Any] | None, *, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    if architecture is None:
        raise ValueError("language_model.weights=random needs language_model.architecture with a model_type")
    config = AutoConfig.for_model(**architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("language_model", seed))
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    assert isinstance(model, PreTrainedModel)
    return model
