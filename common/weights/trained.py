"""Weights of a base with what a run changed: whole tensors in place of its own, low-rank adapters added in."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from common.lora import ADAPTER, adapted_weights, merged_weight
from common.weights.source import Header, WeightsError

LORA = "common.lora.add_lora"


def lora_scale(recipe: Mapping[str, Any] | None) -> float:
    """s = alpha / rank of a configured adapter.

    Raises:
        WeightsError: the adapters are of another kind.
    """
    name = (recipe or {}).get("_target_")
    if recipe is None or name != LORA:
        raise WeightsError(f"the run has adapters of {name}, only those of {LORA} can be exported")
    return float(recipe["alpha"] / recipe["rank"])


def whole_names(state: Mapping[str, Any]) -> set[str]:
    """Names of the tensors that were trained whole."""
    return {name for name in state if f".{ADAPTER}" not in name}


def with_training(
    read: Callable[[str], Tensor],
    *,
    headers: Mapping[str, Header],
    state: Mapping[str, Tensor],
    scale: Callable[[str], float],
    source: str,
) -> Callable[[str], Tensor]:
    """A function that gives a tensor of the trained model by its name.

    Args:
        read: gives a tensor of the base.
        headers: of the base; each tensor gets the dtype of its header, adapters being added in float32.
        state: what was trained, by the same names.
        scale: of the adapter of a weight, by its name.
        source: name of the base, for the message.

    Raises:
        WeightsError: something was trained that has no place in the base.
    """
    adapters, whole = adapted_weights(state), whole_names(state)
    shapes = {name: tuple(state[name].shape) for name in whole}
    shapes |= {name: (state[second].shape[0], state[first].shape[1]) for name, (first, second) in adapters.items()}
    foreign = sorted(name for name in shapes if name not in headers or headers[name].shape != shapes[name])
    if foreign:
        raise WeightsError(
            f"{len(foreign)} trained tensors are not in {source} (first: {foreign[0]}); give the base of the run by "
            "export.base"
        )

    scales = {name: scale(name) for name in adapters}

    def trained(name: str) -> Tensor:
        value = state[name] if name in whole else read(name)
        if name in adapters:
            first, second = (state[factor] for factor in adapters[name])
            value = merged_weight(value.float(), first, second, scale=scales[name])
        return value.to(headers[name].dtype)

    return trained
