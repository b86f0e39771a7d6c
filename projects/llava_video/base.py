"""What a run started from, by the names of its parameters: files that are read one tensor at a time, or a new model."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from common.config import bind, build
from common.export import Request, TrainedRun
from common.weights.names import empty_model, file_names, names_in_files, wanted_shapes
from common.weights.source import Header, Weights, WeightsError, weights_folder
from projects.llava_video.families import Family

VLM = "model.vlm."  # before the names of transformers, in the module


@dataclass(frozen=True)
class Base:
    """The model before training.

    Attributes:
        name: folder or Hub id; None for a model that was made new (random, or composed of published parts).
        folder: of its files; None the same.
        config: of transformers.
        config_json: `config.json` as it is to be written.
        headers: of all parameters, by their names in the model.
        names: in files, by those in the model.
        read: gives a parameter by its name in the model.
    """

    name: str | None
    folder: Path | None
    config: PreTrainedConfig
    config_json: dict[str, Any]
    headers: Mapping[str, Header]
    names: Mapping[str, str]
    read: Callable[[str], Tensor]


def state_of(run: TrainedRun) -> dict[str, Tensor]:
    """What was trained, by the names in the model of transformers.

    Raises:
        WeightsError: the checkpoint is not of this method.
    """
    foreign = [name for name in run.state if not name.startswith(VLM)]
    if foreign or not run.state:
        raise WeightsError(f"{run.checkpoint} has {foreign[:1] or 'nothing'}; tensors of this method begin with {VLM}")
    return {name.removeprefix(VLM): value for name, value in run.state.items()}


def family_of(run: TrainedRun) -> Family:
    """The family of the run's model; what its configuration names is checked, because it comes from a file.

    Raises:
        ConfigError: it names something that it may not, or arguments that are not there.
    """
    bind(run.config["model"], "model")
    bind(run.config["data"]["train"]["template"], "data.train.template")
    family: Family = build(run.config["model"]["family"])
    return family


def base_files(run: TrainedRun, request: Request) -> tuple[str, Weights] | None:
    """Name and files of the base; None for a model that was made new.

    Raises:
        WeightsError: they are not there, or `export.base` was given for a model that has none.
    """
    weights = run.config["model"]["model"]["weights"]
    if weights == "random":
        if request.base is not None:
            raise WeightsError(
                f"export.base={request.base}: the run has model.model.weights=random, which nothing can replace; "
                "leave export.base out"
            )
        return None
    name = request.base or weights
    try:
        return name, Weights(weights_folder(name))
    except WeightsError as error:
        raise WeightsError(f"{error}; if the base of the run has moved, say export.base=<folder>") from error


def base_identity(run: TrainedRun, request: Request) -> dict[str, Any]:
    """What an export depends on beside the checkpoint."""
    found = base_files(run, request)
    if found is None:
        return {"base": run.config["model"]["model"]}
    name, weights = found
    return {"base": {**weights.identity(), "name": name}}


def base_of(run: TrainedRun, request: Request, family: Family) -> Base:
    """The model that a run started from.

    Raises:
        WeightsError: it is not there, or of another family.
    """
    found = base_files(run, request)
    return _made_new(run) if found is None else _from_files(*found, family)


def _from_files(name: str, weights: Weights, family: Family) -> Base:
    path = weights.folder / "config.json"
    if not path.is_file():
        raise WeightsError(f"{path} is not there; fetch it with the weights")
    content = json.loads(path.read_text(encoding="utf-8"))
    config_class: Any = family.model_class.config_class
    if content.get("model_type") != config_class.model_type:
        raise WeightsError(
            f"{path} is of a {content.get('model_type')}, the run of a {config_class.model_type}; give its own base "
            "by export.base"
        )
    config = config_class.from_pretrained(weights.folder)
    names = names_in_files(empty_model(family.model_class, config), weights.headers, source=name)
    return Base(
        name=name,
        folder=weights.folder,
        config=config,
        config_json=content,
        headers={own: weights.headers[file] for own, file in names.items()},
        names=names,
        read=lambda own: weights.read(names[own]),
    )


def _made_new(run: TrainedRun) -> Base:
    """The model as the run made it: the same seed, the same parts."""
    with torch.random.fork_rng(devices=[]):
        model = build(run.config["model"]["model"])()
    tensors = model.state_dict()
    shapes = wanted_shapes(model)
    model.config.use_cache = True  # training turned it off
    return Base(
        name=None,
        folder=None,
        config=model.config,
        config_json=json.loads(model.config.to_json_string(use_diff=True)) | {"architectures": [type(model).__name__]},
        headers={name: Header(shape, tensors[name].dtype) for name, shape in shapes.items()},
        names=file_names(model, shapes),
        read=tensors.__getitem__,
    )
