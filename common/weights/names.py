"""Names of tensors in files of transformers and in its models: its loader renames, and here it is asked how.

The model is built on the meta device, without memory for its numbers.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)

from common.weights.source import Header, WeightsError

log = logging.getLogger(__name__)


def empty_model(model_class: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """A model of a class without numbers."""
    with torch.device("meta"):
        model: PreTrainedModel = model_class(config)
    return model


def wanted_shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Shapes of what a file of the model holds, by the names in the model; of tied tensors the first alone."""
    tied = model.all_tied_weights_keys
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}


def file_names(model: PreTrainedModel, names: Iterable[str]) -> dict[str, str]:
    """The name that transformers writes for each name in the model."""
    numbered = {name: torch.tensor(number) for number, name in enumerate(names)}
    written = {int(number): name for name, number in revert_weight_conversion(model, dict(numbered)).items()}
    return {name: written[int(number)] for name, number in numbered.items()}


def names_in_files(model: PreTrainedModel, headers: Mapping[str, Header], *, source: str) -> dict[str, str]:
    """The name in the files of each tensor of a model, in the order of the files.

    What the model does not have is left out and counted in one line; so is the second of two tied tensors.

    Args:
        model: as `empty_model` gives it.
        headers: of the files, by their names.
        source: of them, for messages.

    Raises:
        WeightsError: a tensor of the model is missing, there twice, of another shape, or put together from several.
    """
    wanted = wanted_shapes(model)
    loaded_as = _loader(model, wanted)
    found: dict[str, str] = {}
    unused = []
    for name, header in headers.items():
        own = loaded_as(name)
        if own not in wanted:
            unused += [] if own in model.all_tied_weights_keys else [name]
        elif own in found:
            raise WeightsError(f"{source}: {name} and {found[own]} are both {own} of {type(model).__name__}")
        elif header.shape != wanted[own]:
            raise WeightsError(
                f"{source}: {name} is {header.shape}, {own} of {type(model).__name__} is {wanted[own]}; "
                "it is another model"
            )
        else:
            found[own] = name
    if missing := [name for name in wanted if name not in found]:
        raise WeightsError(
            f"{source} lacks {len(missing)} parameters of {type(model).__name__} (first: {missing[:3]}); "
            "it is another model, or a shard is missing"
        )
    if unused:
        log.info("%s: %d tensors are of no use to %s, such as %s", source, len(unused), type(model).__name__, unused[0])
    return found


def _loader(model: PreTrainedModel, wanted: Mapping[str, Any]) -> Callable[[str], str]:
    """A function that gives the name in the model which transformers loads a name in a file as."""
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    meta: dict[str, Any] = dict(wanted)

    def loaded_as(name: str) -> str:
        own, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, meta)
        if own not in wanted and name in wanted:
            own, converter = rename_source_key(name, [], [], model.base_model_prefix, meta)
        if converter is not None and own in wanted:
            raise WeightsError(f"{name} becomes a part of {own} when it is loaded; such a model cannot be exported")
        return own

    return loaded_as
