"""What a trained run looks like to others: a pipeline of diffusers, or its UNet alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from common.card import Card
from common.config import build
from common.export import Layout, Request, TrainedRun
from common.latent.unet import unet_folder
from common.pipeline_folder import (
    fill,
    frozen_identity,
    frozen_parts,
    model_config,
    tokenizer_of,
    trained_part,
    write_folder,
)
from common.weights.source import WeightsError
from projects.pix2pix_video.model import channels
from projects.pix2pix_video.pipeline_pix2pix_video import VideoInstructPix2PixPipeline
from projects.pix2pix_video.widen_unet import write_unet

UNET, TEXT = "model.unet.", "text_encoder.tower."  # before the names of diffusers and transformers, in the module


def write_pipeline(run: TrainedRun, folder: Path, request: Request) -> dict[str, Any]:
    """All parts as `from_pretrained` reads them: what was trained in its place, the others from the base."""
    codec, text, scheduler = frozen_parts(run, request)
    fill(text.tower, _trained(run, TEXT), part="text_encoder")
    pipeline = VideoInstructPix2PixPipeline(
        vae=codec.vae,
        text_encoder=text.tower,
        tokenizer=tokenizer_of(text),
        unet=trained_unet(run, request),
        scheduler=scheduler,
    )
    return write_folder(pipeline, folder, request)


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
    fill(unet, state, part="UNet")
    return unet.eval()


def _unet_config(weights: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the UNet, with the input channels of the run's history."""
    if weights == "random":
        content = {name: value for name, value in recipe["architecture"].items() if value is not None}
    else:
        content = json.loads((unet_folder(weights) / "config.json").read_text(encoding="utf-8"))
    return content | {"in_channels": channels(content.get("out_channels", 4), recipe["history"])}


def _trained(run: TrainedRun, prefix: str) -> dict[str, Tensor]:
    return trained_part(run, prefix, all_prefixes=(UNET, TEXT))


USAGE = """\
```python
{load}
frames = [...]  # PIL images of the history, oldest first, of the size of training: `config.yaml` says how many
image = pipeline(frames, "move the red circle left", guidance_scale=7.5, image_guidance_scale=1.5).images[0]
further = pipeline.roll_out(frames, "move the red circle left", frames=8)
```

The class is part of Framelab: run this in a checkout of it. In a checkout plain diffusers loads the folder as well, by
`DiffusionPipeline.from_pretrained(".", custom_pipeline="<checkout>/projects/pix2pix_video/pipeline_pix2pix_video.py",
trust_remote_code=True)`. The guidance scales of the run's own samples are in `config.yaml` under `model.sampling`.
There is no safety checker."""
PIPELINE_CARD = Card(
    form="A pipeline of diffusers: the UNet as it was trained, with the history in its input channels, and the VAE, "
    "the text encoder, the tokenizer and the scheduler that belong to it. Whether the weights are averaged or raw says "
    "`weights` in `made.json`.",
    usage=USAGE.format(
        load="from projects.pix2pix_video.pipeline_pix2pix_video import VideoInstructPix2PixPipeline\n\n"
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
    "diffusers": Layout(write=write_pipeline, card=PIPELINE_CARD, reads=frozen_identity, dtypes=True),
    "unet": Layout(write=write_unet_alone, card=UNET_CARD, dtypes=True),
}
