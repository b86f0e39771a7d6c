"""What of the vision tower learns in the second stage: low-rank adapters, or all of it."""

from collections.abc import Sequence

from torch import nn

from common.encoders.tower import ContrastiveTower
from common.lora import ADAPTER, add_lora


def adapt(
    tower: ContrastiveTower,
    *,
    targets: Sequence[str],
    rank: int,
    alpha: int,
    dropout: float = 0.0,
    projection: bool = True,
    biases: bool = False,
    seed: int = 0,
) -> list[str]:
    """Puts adapters into linear layers of the vision tower and of its projection; the text side is left as it is.

    Args:
        tower: changed in place.
        targets: ends of names of layers of the vision tower, such as "q_proj".
        rank: r of the factors.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapters' input.
        projection: whether the projection into the shared space is adapted too, where there is one.
        biases: whether the biases of adapted layers learn too, as in the published code.
        seed: of the first factor.

    Returns:
        Names of the adapted layers in `tower.model`.

    Raises:
        ValueError: a target that matches nothing there, with the names that there are.
    """
    layers, extra = vision_layers(tower), _projection(tower)
    if extra is not None:
        layers.remove(extra)
    for target in targets:
        if not any(_ends(name, target) for name in layers):
            ends = sorted({name.rpartition(".")[2] for name in layers})
            raise ValueError(
                f"model.adapters.targets: {target} matches no linear layer of the vision tower; there is "
                f"{', '.join(ends)}"
            )
    chosen = [name for name in layers if any(_ends(name, target) for target in targets)]
    if projection and extra is not None:
        chosen.append(extra)
    add_lora(tower.model, targets=chosen, rank=rank, alpha=alpha, dropout=dropout, seed=seed)
    for name in chosen if biases else ():
        bias = tower.model.get_submodule(name).base_layer.bias
        if bias is not None:
            bias.data = bias.data.float()
            bias.requires_grad_(True)
    return chosen


def unfreeze(tower: ContrastiveTower) -> None:
    """Lets the vision tower and its projection learn whole, in float32; the text side is left as it is."""
    for name in vision_names(tower):
        parameter = tower.model.get_parameter(name)
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def vision_names(tower: ContrastiveTower) -> list[str]:
    """Names in `tower.model` of the parameters that pictures pass."""
    return [name for name, _ in tower.model.named_parameters() if name.startswith(_sides(tower))]


def vision_layers(tower: ContrastiveTower) -> list[str]:
    """Names in `tower.model` of the linear layers that pictures pass through as modules.

    The output layer of torch's own attention (SigLIP's pooling head) is not one: its weight is read past the module,
    so that an adapter in it would never be used.
    """
    attention = {name for name, module in tower.model.named_modules() if isinstance(module, nn.MultiheadAttention)}
    return [
        name
        for name, module in tower.model.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(_sides(tower))
        and name.rpartition(".")[0] not in attention
        and f".{ADAPTER}" not in name
    ]


def _projection(tower: ContrastiveTower) -> str | None:
    """Name in `tower.model` of the projection, if there is one."""
    found = [name for name, module in tower.model.named_modules() if module is tower.projection]
    return found[0] if found else None


def _sides(tower: ContrastiveTower) -> tuple[str, ...]:
    """Beginnings of the names of what pictures pass through."""
    named = {id(module): name for name, module in tower.model.named_modules()}
    parts = [tower.vision] if tower.projection is None else [tower.vision, tower.projection]
    return tuple(named[id(part)] for part in parts)


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)
