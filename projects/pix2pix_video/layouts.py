"""What a trained run looks like to others: a pipeline of diffusers, or its UNet alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from torch import Tensor, nn

from common.card import Card
from common.config import bind, build
from common.encoders.text import ClipText
from common.export import Layout, Request, TrainedRun
from common.latent.schedulers import sampler
from common.latent.unet import unet_folder
from common.latent.vae import LatentCodec
from common.weights.source import WeightsError
from common.weights.verified import refuse_difference
from projects.pix2pix_video.model import channels
from projects.pix2pix_video.pipeline import VideoInstructPix2PixPipeline
from projects.pix2pix_video.widen_unet import write_unet

UNET, TEXT = "model.unet.", "text_encoder.tower."  # before the names of diffusers and transformers, in the module


def write_pipeline(run: TrainedRun, folder: Path, request: Request) -> dict[str, Any]:
    """All parts as `from_pretrained` reads them: what was trained in its place, the others from the base."""
    codec, text, scheduler = frozen_parts(run, request)
    _fill(text.tower, _trained(run, TEXT), part="text_encoder")
    unet = trained_unet(run, request)
    tokenizer: Any = text.tokenizer
    tokenizer.model_max_length = text.max_tokens
    parts: dict[str, Any] = {"vae": codec.vae, "text_encoder": text.tower, "unet": unet}
    if request.dtype is not None:
        for part in parts.values():
            part.to(getattr(torch, request.dtype))
    pipeline: Any = VideoInstructPix2PixPipeline(**parts, tokenizer=tokenizer, scheduler=scheduler)
    pipeline.save_pretrained(folder, max_shard_size=request.max_shard_bytes)
    for name, part in parts.items():
        _compare(folder / name, part)
    _compare_small(folder, pipeline)
    return {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items()}


def write_unet_alone(run: TrainedRun, folder: Path, request: Request) -> dict[str, Any]:
    """The UNet as `UNet2DConditionModel.from_pretrained` reads it."""
    if _trained(run, TEXT):
        raise WeightsError("the run trained its text encoder too, and a UNet is not all; take export.layout=diffusers")
    unet = trained_unet(run, request)
    if request.dtype is not None:
        unet.to(getattr(torch, request.dtype))
    write_unet(unet, folder, max_shard_bytes=request.max_shard_bytes)
    return {"unet": sum(each.numel() for each in unet.parameters())}


def trained_unet(run: TrainedRun, request: Request) -> Any:
    """The UNet with what was trained; of the base only the configuration is read, unless a part of it was frozen.

    Raises:
        WeightsError: the checkpoint is of another model.
    """
    recipe, state = model_config(run)["unet"], _trained(run, UNET)
    if not state:
        raise WeightsError(f"{run.checkpoint} has no tensor of this method; they begin with {UNET}")
    weights = recipe["weights"] if recipe["weights"] == "random" else request.base or recipe["weights"]
    config = _unet_config(weights, recipe)
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(config)
    frozen = unet.state_dict().keys() - state.keys()
    if frozen:
        with torch.random.fork_rng(devices=[]):
            plain = {"checkpointing": False, "channels_last": False, "compile": False}
            unet = build(recipe)(**plain, weights=weights)
    _fill(unet, state, part="UNet")
    return unet.eval()


def _unet_config(weights: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the UNet, with the input channels of the run's history."""
    if weights == "random":
        content = {name: value for name, value in recipe["architecture"].items() if value is not None}
    else:
        content = json.loads((unet_folder(weights) / "config.json").read_text(encoding="utf-8"))
    return content | {"in_channels": channels(content.get("out_channels", 4), recipe["history"])}


def frozen_parts(run: TrainedRun, request: Request) -> tuple[LatentCodec, ClipText, SchedulerMixin]:
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


def model_config(run: TrainedRun) -> dict[str, Any]:
    """The configuration of the model; what it names is checked, because it comes from a file."""
    model: dict[str, Any] = run.config["model"]
    bind(model, "model")
    return model


def base_identity(run: TrainedRun, request: Request) -> dict[str, Any]:
    """What a pipeline depends on beside the checkpoint."""
    codec, text, scheduler = frozen_parts(run, request)
    config: Any = scheduler
    return {"vae": codec.identity, "text": text.identity, "scheduler": json.loads(config.to_json_string())}


def _trained(run: TrainedRun, prefix: str) -> dict[str, Tensor]:
    """What was trained of a part, by the names that it has there.

    Raises:
        WeightsError: the checkpoint is not of this method.
    """
    foreign = [name for name in run.state if not name.startswith((UNET, TEXT))]
    if foreign:
        raise WeightsError(f"{run.checkpoint} has {foreign[0]}; tensors of this method begin with {UNET} or {TEXT}")
    return {name.removeprefix(prefix): value for name, value in run.state.items() if name.startswith(prefix)}


def _fill(module: nn.Module, state: Mapping[str, Tensor], *, part: str) -> None:
    """Puts trained tensors in their places; a module without numbers takes them as they are."""
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


def _compare(folder: Path, part: Any) -> None:
    """Loads a part as diffusers and transformers do, and compares it with what was meant.

    Raises:
        OSError: it differs.
    """
    again = type(part).from_pretrained(folder, torch_dtype=part.dtype)
    read, meant = again.state_dict(), part.state_dict()
    refuse_difference(folder, found=read, wanted=meant, read_back=read.__getitem__, read=meant.__getitem__)


def _compare_small(folder: Path, pipeline: Any) -> None:
    """The same for the parts without tensors.

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


USAGE = """\
```python
{load}
frames = [...]  # PIL images of the history, oldest first, of the size of training: `config.yaml` says how many
image = pipeline(frames, "move the red circle left", guidance_scale=7.5, image_guidance_scale=1.5).images[0]
further = pipeline.roll_out(frames, "move the red circle left", frames=8)
```

The class is part of Framelab: run this in a checkout of it. In a checkout plain diffusers loads the folder as well, by
`DiffusionPipeline.from_pretrained(".", custom_pipeline="<checkout>/projects/pix2pix_video/pipeline.py",
trust_remote_code=True)`. The guidance scales of the run's own samples are in `config.yaml` under `model.sampling`.
There is no safety checker."""
PIPELINE_CARD = Card(
    form="A pipeline of diffusers: the UNet as it was trained, with the history in its input channels, and the VAE, "
    "the text encoder, the tokenizer and the scheduler that belong to it. Whether the weights are averaged or raw says "
    "`weights` in `made.json`.",
    usage=USAGE.format(
        load="from projects.pix2pix_video.pipeline import VideoInstructPix2PixPipeline\n\n"
        'pipeline = VideoInstructPix2PixPipeline.from_pretrained(".")'
    ),
    library="diffusers",
    task="image-to-image",
    tags=("instruct-pix2pix", "video"),
)
UNET_CARD = Card(
    form="The UNet as it was trained, with the history in its input channels: the noisy latent of the next frame, then "
    "the unscaled latents of the frames of the history, oldest first. Whether the weights are averaged or raw says "
    "`weights` in `made.json`.",
    usage="""\
```python
from diffusers import UNet2DConditionModel

unet = UNet2DConditionModel.from_pretrained(".")
```""",
    library="diffusers",
    tags=("instruct-pix2pix", "video"),
)
LAYOUTS = {
    "diffusers": Layout(write=write_pipeline, card=PIPELINE_CARD, reads=base_identity, dtypes=True),
    "unet": Layout(write=write_unet_alone, card=UNET_CARD, dtypes=True),
}
