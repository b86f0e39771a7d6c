"""Low-rank adapters (Hu et al., arXiv:2106.09685) through peft, in the module itself: names and class stay."""

from collections.abc import Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from common.random import mix

ADAPTER = "lora_"  # in the name of every adapter parameter


def add_lora(
    model: nn.Module, *, targets: Sequence[str], rank: int, alpha: int, dropout: float = 0.0, seed: int = 0
) -> list[str]:
    """Puts adapters into the linear layers whose names end in one of `targets`; nothing else trains afterwards.

    The output does not change until the first step, because the second factor starts at zero.

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
    return [name for name in linear if any(_matches(name, target) for target in targets)]


def merge_lora(model: nn.Module) -> int:
    """Adds every adapter into its layer and puts the plain layer back.

    Returns:
        How many layers were merged.
    """
    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in adapted:
        module.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())
    return len(adapted)


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)
