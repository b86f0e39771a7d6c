"""The tower as the second stage left it: adapters added in, in float32, and proof that it is not its base."""

from collections.abc import Mapping
from typing import Any

import torch

from common.checkpoint import check_names, load_trained
from common.config import build
from common.encoders.tower import ContrastiveTower
from common.export import Request, TrainedRun
from common.lora import merge_lora
from common.weights.source import WeightsError
from projects.genhancer.adapters import unfreeze, vision_names

RECONSTRUCTOR, TOWER = "reconstructor.", "tower."  # before the names of the parts, in the module


def second_stage(model: Mapping[str, Any]) -> bool:
    """Whether the tower learned."""
    return model["adapters"] is not None or bool(model["whole"])


def base_tower(model: Mapping[str, Any], request: Request) -> ContrastiveTower:
    """The tower as the run started from it, in float32.

    Raises:
        WeightsError: it is not where the run had it, and `export.base` does not say where it is.
    """
    own = model["tower"]["weights"]
    moved = {} if request.base is None or own == "random" else {"weights": request.base}
    try:
        tower: ContrastiveTower = build(model["tower"])(**moved, dtype="float32")
    except WeightsError as error:
        raise WeightsError(f"{error}; if the base of the run has moved, say export.base=<folder>") from error
    return tower


def merged_tower(run: TrainedRun, model: Mapping[str, Any], request: Request) -> tuple[ContrastiveTower, list[str]]:
    """The trained tower without adapters, float32, and the names of the tensors that differ from the base.

    Raises:
        CheckpointError: the checkpoint is of another tower.
        WeightsError: nothing differs.
    """
    tower = base_tower(model, request)
    before = {name: value.clone() for name, value in tower.model.state_dict().items()}
    if model["whole"]:
        unfreeze(tower)
    else:
        build(model["adapters"])(tower)
    state = {name.removeprefix(TOWER): value for name, value in run.state.items() if name.startswith(TOWER)}
    trained = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
    check_names(trained, state, source=str(run.checkpoint))
    load_trained(tower, state, source=str(run.checkpoint))
    merge_lora(tower.model)
    tower.model.requires_grad_(False)
    after = tower.model.state_dict()
    assert after.keys() == before.keys(), "merging put every plain layer back"
    changed = [name for name, value in before.items() if not torch.equal(after[name], value)]
    if not changed:
        raise WeightsError(
            f"{run.checkpoint}: the tower equals its base, so there is nothing to export; the run changed nothing in it"
        )
    strange = set(changed) - set(vision_names(tower))
    assert not strange, f"the text side changed: {sorted(strange)}"
    return tower, changed
