"""The UNet of latent diffusion: where it comes from, and how it computes. Nothing is downloaded."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from safetensors import SafetensorError
from torch import nn

from common.config import suggest
from common.random import mix
from common.weights.source import WeightsError, weights_folder

FILE = "diffusion_pytorch_model"
SUBFOLDER = "unet"  # in the folder of a pipeline


def build_unet2d(
    *,
    weights: str,
    architecture: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    seed: int = 0,
    checkpointing: bool = False,
    channels_last: bool = False,
    compile: bool = False,
) -> UNet2DConditionModel:
    """A text-to-image UNet.

    Args:
        weights: folder of a pipeline of diffusers or of a UNet, id of a fetched Hub repository, or "random".
        architecture: arguments of `UNet2DConditionModel`; only for "random".
        dtype: of the weights, by its name in torch.
        seed: of the random weights.
        checkpointing: recompute the activations of each block in the backward pass.
        channels_last: keep weights, and so activations, in the order that convolutions on tensor cores read.
        compile: run `torch.compile` on each residual and transformer block.

    Raises:
        ValueError: "random" without an architecture.
        WeightsError: weights that are not there, or not of such a UNet.
    """
    unet = random_unet(known_arguments(architecture), seed) if weights == "random" else read_unet(weights)
    return ready(unet, dtype=dtype, checkpointing=checkpointing, channels_last=channels_last, compile=compile)


def ready(
    unet: UNet2DConditionModel, *, dtype: str, checkpointing: bool, channels_last: bool, compile: bool
) -> UNet2DConditionModel:
    """The UNet in training mode and in the manner that `build_unet2d` describes; changed in place."""
    whole: Any = unet
    if whole.dtype != getattr(torch, dtype):  # diffusers warns of every cast
        whole = whole.to(dtype=getattr(torch, dtype))
    whole.train()  # as a new one is; published weights arrive in evaluation mode
    if channels_last:
        whole = whole.to(memory_format=torch.channels_last)
    if checkpointing:
        whole.enable_gradient_checkpointing()
    if compile:
        for block in blocks(whole):
            block.compile()
    return unet


def blocks(unet: nn.Module) -> list[nn.Module]:
    """The transformer and residual blocks: nearly all parameters, and none inside another."""
    return [each for each in unet.modules() if isinstance(each, BasicTransformerBlock | ResnetBlock2D)]


def channels_of(unet: UNet2DConditionModel) -> tuple[int, int]:
    """Input and output channels."""
    config: Any = unet.config
    return config.in_channels, config.out_channels


def known_arguments(architecture: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of `UNet2DConditionModel` without those that are None, which stand for its defaults.

    Raises:
        ValueError: there are none, or one is not known.
    """
    if architecture is None:
        raise ValueError("unet.weights=random needs unet.architecture, arguments of UNet2DConditionModel")
    known = sorted(set(inspect.signature(UNet2DConditionModel.__init__).parameters) - {"self"})
    architecture = {name: value for name, value in architecture.items() if not name.startswith("_")}
    for name in architecture:
        if name not in known:
            raise ValueError(f"unet.architecture.{name}: {suggest(name, known)}")
    return {name: value for name, value in architecture.items() if value is not None}


def random_unet(arguments: Mapping[str, Any], seed: int) -> UNet2DConditionModel:
    """A UNet with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("unet", seed))
        return UNet2DConditionModel(**arguments)


def read_unet(weights: str, *, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """A published UNet with the number of channels that it has, every parameter from its file.

    safetensors are read where they are; a `.bin` file is opened as tensors only.

    Args:
        weights: folder of a pipeline of diffusers or of a UNet, or id of a fetched Hub repository.
        dtype: of the parameters, whatever that of the files is.

    Raises:
        WeightsError: nothing there, or files of another model.
    """
    folder = unet_folder(weights)
    if not (has_safetensors := _has(folder, "safetensors")) and not _has(folder, "bin"):
        raise WeightsError(f"{folder} has neither {FILE}.safetensors nor .bin; fetch the weights of the UNet")
    try:
        unet, found = UNet2DConditionModel.from_pretrained(
            folder,
            use_safetensors=has_safetensors,
            output_loading_info=True,
            local_files_only=True,
            torch_dtype=dtype,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WeightsError(
            f"{folder}: not whole files of the UNet in config.json ({reason}); fetch them again"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise WeightsError(
            f"{folder} lacks {len(missing)} parameters of its UNet (first: {missing[0]}); fetch it again"
        )
    return unet


def _has(folder: Path, kind: str) -> bool:
    return any((folder / f"{FILE}.{kind}{index}").is_file() for index in ("", ".index.json"))


def unet_folder(weights: str) -> Path:
    """The folder of the UNet inside a folder of weights or a fetched Hub repository.

    Raises:
        WeightsError: there is none.
    """
    folder = weights_folder(weights)
    for candidate in (folder / SUBFOLDER, folder):
        if (candidate / "config.json").is_file():
            return candidate
    raise WeightsError(f"{folder} has neither unet/config.json nor config.json; give a folder that diffusers wrote")
