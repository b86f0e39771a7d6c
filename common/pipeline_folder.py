"""A trained run as a pipeline of diffusers: its frozen parts, what was trained put in place, files compared.

For methods whose configuration has the recipes `model.vae`, `model.text_encoder`, `model.noise` and
`model.sampling.scheduler`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config import bind, build
from common.encoders.text import ClipText
from common.export import Request, TrainedRun
from common.latent.schedulers import sampler
from common.latent.vae import LatentCodec
from common.weights.source import WeightsError
from common.weights.verified import refuse_difference


def model_config(run: TrainedRun) -> dict[str, Any]:
    """The configuration of the model; what it names is checked, because it comes from a file.

    Raises:
        ConfigError: it names something that it may not.
    """
    model: dict[str, Any] = run.config["model"]
    bind(model, "model")
    return model


def frozen_parts(run: TrainedRun, request: Request) -> tuple[LatentCodec, ClipText, Any]:
    """Autoencoder and text encoder as the run started from them, and the scheduler that it sampled with.

    Raises:
        ConfigError: the configuration of the run names something that it may not.
        ValueError: a part is not where the run had it, and `export.base` does not say where it is.
    """
    model = model_config(run)
    made = {}
    for name in ("vae", "text_encoder", "noise"):
        moved = request.base is not None and model[name]["weights"] != "random"
        try:
            made[name] = build(model[name])(**({"weights": request.base} if moved else {}))
        except WeightsError as error:
            raise WeightsError(f"{error}; if the base of the run has moved, say export.base=<folder>") from error
    return made["vae"], made["text_encoder"], sampler(model["sampling"]["scheduler"], made["noise"])


def frozen_identity(run: TrainedRun, request: Request) -> dict[str, Any]:
    """What these parts depend on beside the checkpoint."""
    codec, text, scheduler = frozen_parts(run, request)
    return {"vae": codec.identity, "text": text.identity, "scheduler": json.loads(scheduler.to_json_string())}


def trained_part(run: TrainedRun, prefix: str, *, all_prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """What was trained of a part, by the names that it has there.

    Args:
        run: as read.
        prefix: of the part's names in the module.
        all_prefixes: of all parts that the method has.

    Raises:
        WeightsError: the checkpoint is not of this method.
    """
    foreign = [name for name in run.state if not name.startswith(all_prefixes)]
    if foreign:
        expected = " or ".join(all_prefixes)
        raise WeightsError(f"{run.checkpoint} has {foreign[0]}; tensors of this method begin with {expected}")
    return {name.removeprefix(prefix): value for name, value in run.state.items() if name.startswith(prefix)}


def fill(module: nn.Module, state: Mapping[str, Tensor], *, part: str) -> None:
    """Puts trained tensors in their places; a module without numbers takes them as they are.

    Raises:
        WeightsError: a tensor has no place.
    """
    own = module.state_dict()
    foreign = sorted(name for name, value in state.items() if name not in own or own[name].shape != value.shape)
    if foreign:
        raise WeightsError(
            f"{len(foreign)} trained tensors have no place in the {part} (first: {foreign[0]}); give the base of the "
            "run by export.base"
        )
    empty = any(value.is_meta for value in own.values())
    # Trained in channels-last order, a tensor is written in the usual one.
    plain = {name: value.contiguous() for name, value in state.items()}
    module.load_state_dict(plain, strict=empty, assign=empty)


def write_folder(pipeline: Any, folder: Path, request: Request) -> dict[str, int]:
    """Writes a pipeline, in the dtype that is asked for, and reads every part back.

    Args:
        pipeline: of diffusers, with `vae`, `text_encoder`, `unet`, `tokenizer` and `scheduler`; the first three change
            to that dtype.
        folder: that is there.
        request: as the user gave it.

    Returns:
        Number of parameters of each part.

    Raises:
        OSError: what was written does not read back equal.
    """
    parts = {name: getattr(pipeline, name) for name in ("vae", "text_encoder", "unet")}
    if request.dtype is not None:
        for part in parts.values():
            part.to(getattr(torch, request.dtype))
    pipeline.save_pretrained(folder, max_shard_size=request.max_shard_bytes)
    for name, part in parts.items():
        compare_part(folder / name, part)
    _compare_small(folder, pipeline)
    return {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items()}


def tokenizer_of(text: ClipText) -> Any:
    """The tokenizer, with the length that prompts are padded to."""
    tokenizer: Any = text.tokenizer
    tokenizer.model_max_length = text.max_tokens
    return tokenizer


def compare_part(folder: Path, part: Any) -> None:
    """Loads a part as diffusers and transformers do, and compares it with what was meant.

    Raises:
        OSError: it differs.
    """
    again = type(part).from_pretrained(folder, torch_dtype=part.dtype)
    read, meant = again.state_dict(), part.state_dict()
    refuse_difference(folder, found=read, wanted=meant, read_back=read.__getitem__, read=meant.__getitem__)


def _compare_small(folder: Path, pipeline: Any) -> None:
    """The same for the parts without tensors: the scheduler and the tokenizer.

    Raises:
        OSError: one differs.
    """
    scheduler = type(pipeline.scheduler).from_pretrained(folder / "scheduler")
    if _settings(scheduler) != _settings(pipeline.scheduler):
        raise OSError(f"{folder / 'scheduler'} does not read back as it was written; check the disk and export again")
    tokenizer = type(pipeline.tokenizer).from_pretrained(folder / "tokenizer")
    found, meant = ((each.get_vocab(), each.model_max_length) for each in (tokenizer, pipeline.tokenizer))
    if found != meant:
        raise OSError(f"{folder / 'tokenizer'} does not read back as it was written; check the disk and export again")


def _settings(scheduler: Any) -> dict[str, Any]:
    """What a scheduler was built with, without what diffusers notes beside it."""
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
