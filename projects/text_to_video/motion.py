"""Temporal layers in a text-to-image UNet: `UNetMotionModel` of diffusers, as in AnimateDiff (arXiv:2307.04725).

After each residual (and transformer) block of the UNet comes a temporal transformer, in which each place of the latent
grid sees itself in all frames of the clip. Its last layer starts at zero, so that a new model gives for each frame what
the text-to-image UNet gives. (diffusers starts it at random values; the paper, section 4.2, and its code at zero.)
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from common.config import suggest
from common.latent.unet import blocks, channels_of
from projects.text_to_video.guidance import Guidance, branches, combine

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # noisy (N, F, C, h, w), t (N,), text (N, L, D) to (N, F, C, h, w)
Guided = Callable[[Tensor, Tensor], Tensor]

# Read in another form by UNetMotionModel, or without meaning there: the attention that diffusers computes by default,
# torch's scaled dot product, never upcasts.
TRANSLATED = ("attention_head_dim", "upcast_attention", "addition_embed_type_num_heads")


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Size of the temporal transformers.

    Attributes:
        heads: of each attention; divides every width of the UNet.
        layers: transformer blocks in each, of two self-attentions and a feed-forward part.
        middle: whether the middle block of the UNet has one.
    """

    heads: int = 8
    layers: int = 1
    middle: bool = False


def read_motion(settings: Mapping[str, Any] | None) -> Motion:
    """The settings that a configuration gives.

    Raises:
        ValueError: one of another name.
    """
    known = [field.name for field in fields(Motion)]
    for name in settings or {}:
        if name not in known:
            raise ValueError(f"model.kind.motion.{name}: {suggest(name, known)}")
    return Motion(**(settings or {}))


class TemporalPath(AnimateDiffTransformer3D):
    """A temporal transformer that can be bypassed clip by clip, and recomputed in the backward pass."""

    gradient_checkpointing = False  # diffusers sets it where it is, and forgets these transformers
    bypass: Tensor | None = None  # bool (B,): clips whose frames pass as they are; None for no clip

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        num_frames: int = 1,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Adds to the features of each frame, (B F, d, h, w), what the other frames of its clip say.

        The other arguments are those of diffusers, and always None.
        """
        compute: Any = super().forward
        if self.gradient_checkpointing and torch.is_grad_enabled():
            compute = partial(self._gradient_checkpointing_func, compute)
        output: Tensor = compute(hidden_states, None, None, None, num_frames)
        if self.bypass is None:
            return output
        whole = self.bypass.repeat_interleave(num_frames, output_size=len(output))
        return torch.where(whole.view(-1, 1, 1, 1), hidden_states, output)


class FramePlaces(SinusoidalPositionalEmbedding):
    """Which frame of its clip each one is: the first ones in order, or any (arXiv:2205.11495)."""

    places: Tensor | None = None  # int64 (B, F); None for 0, 1, ... in every clip

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Adds to features (B h w, F, d), all places of a clip's grid together, what stands for the frame."""
        if self.places is None:
            output: Tensor = super().forward(hidden_states)
            return output
        table: Any = self.pe
        return hidden_states + table[0, self.places].repeat_interleave(len(hidden_states) // len(self.places), dim=0)


def add_motion(
    base: UNet2DConditionModel | UNetMotionModel, *, frames: int, motion: Motion, train_spatial: bool, more: int = 0
) -> Any:
    """A UNet for clips from one for images, with the memory format, recomputation and compilation of that one.

    What trains: the temporal transformers, the first convolution if it gets input channels, or all.

    Args:
        base: for images; or one for clips, as an export holds it, which stays as it is.
        frames: the most frames that a clip may have.
        motion: size of the temporal transformers, where they are new.
        train_spatial: whether the layers of the text-to-image UNet train too.
        more: input channels to add, which count for nothing at first.

    Returns:
        A `UNetMotionModel`.

    Raises:
        ValueError: a UNet that `UNetMotionModel` has no place for, or one for shorter clips.
    """
    unet: Any = base if isinstance(base, UNetMotionModel) else _new(base, frames, motion, more)
    if unet.config.motion_max_seq_length < frames:
        raise ValueError(f"clips of {frames} frames, but the UNet is for {unet.config.motion_max_seq_length} at most")
    latent = channels_of(unet)[1]
    if unet.config.in_channels != latent + more:
        raise ValueError(f"the UNet has {unet.config.in_channels} input channels, this kind needs {latent + more}")
    unet.requires_grad_(train_spatial)
    if more:
        unet.conv_in.requires_grad_(True)
    for module in list(unet.modules()):
        if isinstance(module, AnimateDiffTransformer3D):
            module.__class__ = TemporalPath  # the same parameters by the same names, for others to read
            module.requires_grad_(True)
        elif isinstance(module, SinusoidalPositionalEmbedding):
            module.__class__ = FramePlaces
    _follow(base, unet)
    return unet


def paths(unet: nn.Module) -> list[TemporalPath]:
    """The temporal transformers."""
    return [module for module in unet.modules() if isinstance(module, TemporalPath)]


def positions(unet: nn.Module) -> list[FramePlaces]:
    """What tells the temporal transformers which frame is which."""
    return [module for module in unet.modules() if isinstance(module, FramePlaces)]


def predict(unet: Any, noisy: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """The prediction for all frames of clips.

    Args:
        unet: a `UNetMotionModel`.
        noisy: its input, (B, F, C, h, w).
        t: timesteps, (B,).
        text: states of the captions, (B, L, D).

    Returns:
        (B, F, C, h, w), in the dtype of `noisy`.
    """
    dtype = unet.conv_in.weight.dtype
    states = text.to(dtype).repeat_interleave(noisy.shape[1], dim=0)  # diffusers wants the text of each frame
    sample = noisy.to(dtype).transpose(1, 2)
    prediction: Tensor = unet(sample, t, encoder_hidden_states=states, return_dict=False)[0]
    return prediction.transpose(1, 2).to(noisy.dtype)


def guided_by_text(predict: Predict, *, text: Tensor, null_text: Tensor, guidance: Guidance) -> Guided:
    """A model that is guided by captions alone; with and without them, all clips are one call.

    Args:
        predict: the model; its clips come once for each branch of the guidance, one branch after the other.
        text: states of the captions, (B, L, D).
        null_text: of the null caption, (1, L, D).
        guidance: with context_scale 1.

    Returns:
        Gives the prediction, float32, for latents (B, F, C, h, w) and a time.
    """
    assert guidance.context_scale == 1.0, guidance
    chosen = branches(guidance)
    texts = torch.cat([text if branch.text else null_text.expand_as(text) for branch in chosen])

    def guided(noisy: Tensor, time: Tensor) -> Tensor:
        prediction = predict(noisy.repeat(len(chosen), 1, 1, 1, 1), time.expand(len(texts)), texts).float()
        return combine(dict(zip(chosen, prediction.chunk(len(chosen)), strict=True)), guidance)

    return guided


def _new(base: Any, frames: int, motion: Motion, more: int) -> Any:
    _refuse_lost_settings(base)
    if odd := [width for width in base.config.block_out_channels if width % motion.heads]:
        raise ValueError(f"model.kind.motion.heads={motion.heads} does not divide the width {odd[0]} of the UNet")
    adapter = MotionAdapter(
        block_out_channels=base.config.block_out_channels,
        motion_layers_per_block=base.config.layers_per_block,
        motion_transformer_layers_per_block=motion.layers,
        motion_transformer_layers_per_mid_block=motion.layers,
        motion_num_attention_heads=motion.heads,
        motion_norm_num_groups=base.config.norm_num_groups,
        motion_max_seq_length=frames,
        use_motion_mid_block=motion.middle,
    )
    # Its own way to copy weights casts the whole model and warns of it, and skips what has no place.
    unet: Any = UNetMotionModel.from_unet2d(base, adapter, load_weights=False)
    found = unet.load_state_dict(base.state_dict(), strict=False)
    assert not found.unexpected_keys, found
    assert all(".motion_modules." in name for name in found.missing_keys), found
    for module in unet.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
    if unet.dtype != base.dtype:  # diffusers warns of every cast
        unet.to(dtype=base.dtype)
    if more:
        unet.conv_in = _widened(unet.conv_in, more)
        unet.register_to_config(in_channels=unet.conv_in.in_channels)  # an assignment is not saved
    return unet


def _refuse_lost_settings(base: Any) -> None:
    """`from_unet2d` leaves out what it does not know; with such a setting the model would be another."""
    usual, kept = (inspect.signature(each.__init__).parameters for each in (UNet2DConditionModel, UNetMotionModel))
    for name, parameter in usual.items():
        if (
            name not in kept
            and name not in TRANSLATED
            and base.config.get(name, parameter.default) != parameter.default
        ):
            raise ValueError(
                f"the UNet has {name}={base.config[name]}, for which the temporal layers of diffusers have no place; "
                "give one as that of Stable Diffusion 1 or 2"
            )


def _widened(old: Any, more: int) -> nn.Conv2d:
    """A convolution with further input channels, whose columns are zeros."""
    new = nn.Conv2d(
        old.in_channels + more,
        old.out_channels,
        kernel_size=old.kernel_size,
        padding=old.padding,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        assert new.bias is not None
        new.bias.copy_(old.bias)
    return new


def _follow(base: Any, unet: Any) -> None:
    """Gives the new UNet what was said of the old one when it was built."""
    if base is unet:
        return
    unet.train(base.training)
    if base.conv_in.weight.is_contiguous(memory_format=torch.channels_last):
        unet.to(memory_format=torch.channels_last)
    if base.is_gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if any(block._compiled_call_impl is not None for block in blocks(base)):
        for block in blocks(unet):
            block.compile()
