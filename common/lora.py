"""Low-rank adapters (Hu et al., arXiv:2106.09685) through peft, in the module itself: names and class stay."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from common.random import mix

ADAPTER = "lora_"  # in the name of every adapter parameter


def add_lora(
    model: nn.Module, *, targets: Sequence[str], rank: int, alpha: int, dropout: float = 0.0, seed: int = 0
) -> list[str]:
    """Puts adapters into the linear layers whose names end in one of `targets`; nothing else trains afterwards.

    The output does not change until the first step, because the second factor starts at zero. The factors are float32
    whatever the dtype of their layer: the steps of an optimizer are too small for bfloat16.

    Args:
        model: changed in place.
        targets: ends of module names, such as "q_proj".
        rank: r of the factors.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapters' input.
        seed: of the first factor.

    Returns:
        Names of the adapted modules.

    Raises:
        ValueError: a target that matches nothing, with the names that there are.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(_matches(name, target) for name in linear):
            ends = sorted({name.rpartition(".")[2] for name in linear})
            raise ValueError(f"lora.targets: {target} matches no linear layer; there is {', '.join(ends)}")
    model.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("lora", seed))
        inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return [name for name in linear if any(_matches(name, target) for target in targets)]


@contextmanager
def without_lora(model: nn.Module) -> Iterator[None]:
    """The model as it was before its adapters, while the block lasts; what else trains in it stays as it is."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    scales = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:  # by their scale: peft's own switch also changes what requires a gradient
            layer.scaling = dict.fromkeys(layer.scaling, 0.0)
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling = scale


def merge_lora(model: nn.Module) -> int:
    """Adds every adapter into its layer, in float32 whatever the dtype of either, and puts the plain layer back.

    Returns:
        How many layers were merged.
    """
    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name, module in adapted:
        _merge(module)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())
    return len(adapted)


def merged_weight(weight: Tensor, first: Tensor, second: Tensor, *, scale: float) -> Tensor:
    """W + s B A (equation 3), summed in float32 and rounded once, to the dtype of the weight.

    Args:
        weight: W of the layer, (out, in).
        first: A, (rank, in).
        second: B, (out, rank).
        scale: s = alpha / rank.
    """
    return (weight.float() + scale * (second.float() @ first.float())).to(weight.dtype)


def adapted_weights(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The layers that adapters belong to, from the names of trained tensors.

    Returns:
        {name of the layer's weight: (name of A, name of B)}.

    Raises:
        ValueError: an adapter lacks one of its factors.
    """
    factors: dict[str, dict[str, str]] = {}
    for name in names:
        layer, found, rest = name.partition(f".{ADAPTER}")
        if found:
            factors.setdefault(f"{layer}.weight", {})[rest.partition(".")[0]] = name
    for weight, pair in factors.items():
        if pair.keys() != {"A", "B"}:
            raise ValueError(f"the adapter of {weight} has {', '.join(pair.values())} alone; the file is incomplete")
    return {weight: (pair["A"], pair["B"]) for weight, pair in factors.items()}


def _merge(layer: LoraLayer) -> None:
    weight = layer.get_base_layer().weight
    assert isinstance(weight, Tensor)
    if not weight.is_floating_point():  # packed in 4 bits: only its own class can unpack it
        layer.merge()
        return
    with torch.no_grad():
        for name in layer.active_adapters:
            first, second = (factors[name].get_parameter("weight") for factors in (layer.lora_A, layer.lora_B))
            weight.copy_(merged_weight(weight, first, second, scale=layer.scaling[name]))


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)
