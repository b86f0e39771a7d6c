"""The denoiser: a Stable Diffusion UNet that sees the frames of the history as further input channels.

Input channels are C + C T: the noisy latent of the next frame, then the latents of the T history frames, oldest first.
InstructPix2Pix (arXiv:2211.09800, section 3.2) is the case T = 1.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from common.latent.unet import channels_of, known_arguments, random_unet, read_unet, ready
from common.weights.source import WeightsError


class EditModel(nn.Module):
    """A UNet with the history in its input channels."""

    unet: Any  # a UNet2DConditionModel, whose layers diffusers does not declare

    def __init__(self, *, unet: UNet2DConditionModel) -> None:
        """
        Args:
            unet: with C + C T input channels.
        """
        super().__init__()
        self.unet = unet

    @property
    def history(self) -> int:
        """Number of history frames T."""
        return history_of(self.unet)

    def forward(self, noisy: Tensor, history: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The prediction of the training target (epsilon or v) for the next frame.

        Args:
            noisy: scaled latent of the next frame with noise, (B, C, h, w).
            history: unscaled modes of the posterior of the history frames, oldest first, (B, T, C, h, w); zeros stand
                for no image.
            t: timesteps, (B,).
            text: hidden states of the text encoder, (B, L, D).

        Returns:
            (B, C, h, w), in the dtype of `noisy`.
        """
        assert history.ndim == 5, history.shape
        dtype = self.unet.conv_in.weight.dtype
        sample = torch.cat([noisy.to(dtype), history.flatten(1, 2).to(dtype)], dim=1)
        prediction: Tensor = self.unet(sample, t, encoder_hidden_states=text.to(dtype), return_dict=False)[0]
        return prediction.to(noisy.dtype)


def build_unet(
    *,
    weights: str,
    history: int,
    architecture: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    seed: int = 0,
    checkpointing: bool = False,
    channels_last: bool = False,
    compile: bool = False,
) -> UNet2DConditionModel:
    """A UNet whose input channels are those of a history.

    Args:
        weights: folder of a pipeline of diffusers or of a UNet, id of a fetched Hub repository, or "random".
        history: number of history frames T, at least 1.
        architecture: arguments of `UNet2DConditionModel`; only for "random". `in_channels` follows from `history`.
        dtype: of the weights, by its name in torch.
        seed: of the random weights.
        checkpointing: recompute the activations of each block in the backward pass.
        channels_last: keep weights, and so activations, in the order that convolutions on tensor cores read.
        compile: run `torch.compile` on each residual and transformer block.

    Raises:
        ValueError: no history, or "random" without an architecture.
        WeightsError: weights that are not there, not of such a UNet, or of another number of input channels.
    """
    if history < 1:
        raise ValueError(f"model.unet.history={history}: at least one frame, the newest")
    if weights == "random":
        unet = random_unet(_with_channels(architecture, history), seed)
    else:
        unet = read_unet(weights)
        _refuse_channels(unet, history, weights)
    return ready(unet, dtype=dtype, checkpointing=checkpointing, channels_last=channels_last, compile=compile)


def channels(latent: int, history: int) -> int:
    """Input channels C + C T."""
    return latent + latent * history


def history_of(unet: UNet2DConditionModel) -> int:
    """Number of history frames T of a UNet with C + C T input channels; 0 for a text-to-image one.

    Raises:
        ValueError: the input channels are no such sum.
    """
    seen, latent = channels_of(unet)
    frames, rest = divmod(seen, latent)
    if rest:
        raise ValueError(f"a UNet with {seen} input and {latent} output channels has no whole number of history frames")
    return int(frames) - 1


def _with_channels(architecture: Mapping[str, Any] | None, history: int) -> dict[str, Any]:
    arguments = known_arguments(architecture)
    wanted = channels(int(arguments.get("out_channels", 4)), history)
    if arguments.setdefault("in_channels", wanted) != wanted:
        raise ValueError(
            f"unet.architecture.in_channels={arguments['in_channels']}, but history={history} makes it {wanted}; "
            "leave it out"
        )
    return arguments


def _refuse_channels(unet: UNet2DConditionModel, history: int, weights: str) -> None:
    found, latent = channels_of(unet)
    wanted = channels(latent, history)
    if found != wanted:
        raise WeightsError(
            f"the UNet of {weights} has {found} input channels, history={history} needs {wanted}; widen one of 4 or 8: "
            f"python -m launchers.prepare task=widen_unet task.source={weights} task.history={history}"
        )


def widen(unet: UNet2DConditionModel, *, history: int) -> UNet2DConditionModel:
    """Gives a text-to-image or an InstructPix2Pix UNet the input channels of a history; changes it in place.

    The columns of the first convolution for the noisy latent stay, those for an image (if the base has them) become
    those of the newest frame, and those of older frames are zeros, as is the newest frame's where the base sees no
    image. So the output does not change before training, whatever the older frames show.

    Args:
        unet: with C or 2 C input channels.
        history: number of history frames T, at least 1.

    Returns:
        The same UNet with C + C T input channels.

    Raises:
        ValueError: another number of input channels.
    """
    old: nn.Conv2d = unet.conv_in
    _, latent = channels_of(unet)
    if old.in_channels not in (latent, 2 * latent) or history < 1:
        raise ValueError(
            f"a UNet with {old.in_channels} input channels cannot be widened to a history of {history}: give one with "
            f"{latent} (text to image) or {2 * latent} (InstructPix2Pix), and at least one frame"
        )
    new = nn.Conv2d(
        channels(latent, history),
        old.out_channels,
        kernel_size=old.kernel_size,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, :latent] = old.weight[:, :latent]
        if old.in_channels == 2 * latent:
            new.weight[:, -latent:] = old.weight[:, latent:]
        if old.bias is not None:
            assert new.bias is not None
            new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=new.in_channels)  # an assignment is not saved
    return unet
