"""Kinds of vision language models: how their frames become rows among the tokens. One class a family."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaOnevisionForConditionalGeneration, PreTrainedModel

from common.text.mask import VisualTokens

PARTS = ("vision", "projector", "language_model")


class Family(Protocol):
    """What the module has to know of a model class of transformers."""

    model_class: type[PreTrainedModel]
    patch: str  # placeholder of a visual row in the text

    def count(self, frames: int, tokens_per_frame: int) -> int:
        """Visual rows of a clip."""

    def rows(self, model: Any, pixels: Tensor) -> Tensor:
        """Visual rows of clips of equal length: normalised (B, T, C, H, W) -> (B, N, width)."""


@dataclass(frozen=True)
class Llava:
    """LLaVA (arXiv:2304.08485) and LLaVA-interleave: each frame an image of h x w rows, one after the other."""

    patch: str = "<image>"
    model_class: type[PreTrainedModel] = LlavaForConditionalGeneration

    def count(self, frames: int, tokens_per_frame: int) -> int:
        """T frames of h w rows."""
        return frames * tokens_per_frame

    def rows(self, model: Any, pixels: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, T h w, width)."""
        features = model.model.get_image_features(pixel_values=pixels.flatten(0, 1)).pooler_output
        return torch.stack(features).unflatten(0, pixels.shape[:2]).flatten(1, 2)


@dataclass(frozen=True)
class LlavaOnevision:
    """LLaVA-OneVision (arXiv:2408.03326), videos: each frame pooled to half its side, one newline row at the end."""

    patch: str = "<video>"
    model_class: type[PreTrainedModel] = LlavaOnevisionForConditionalGeneration

    def count(self, frames: int, tokens_per_frame: int) -> int:
        """T frames of ceil(h / 2) ceil(w / 2) rows, and the newline."""
        side = round(tokens_per_frame**0.5)
        return frames * ceil(side / 2) ** 2 + 1

    def rows(self, model: Any, pixels: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, N, width)."""
        rows: Tensor = model.model.get_video_features(pixel_values_videos=pixels).pooler_output
        return rows


def visual_tokens(family: Family, *, frames: int, tokens_per_frame: int) -> VisualTokens:
    """What stands for a clip of so many frames."""
    return VisualTokens(count=family.count(frames, tokens_per_frame), start=None, patch=family.patch, end=None)


def part_of(name: str) -> str:
    """The part that a parameter of such a model belongs to."""
    if name.startswith("model.vision_tower."):
        return "vision"
    return "language_model" if name.startswith(("model.language_model.", "lm_head.")) else "projector"


def unused_vision(model: PreTrainedModel) -> Iterator[str]:
    """Names of the vision tower's parameters that no visual row depends on: the blocks behind the selected layer."""
    config: Any = model.config
    layers = config.vision_config.num_hidden_layers
    selected = config.vision_feature_layer
    last = max(layer % (layers + 1) for layer in ([selected] if isinstance(selected, int) else selected))
    for name, _ in model.named_parameters():
        if part_of(name) != "vision":
            continue
        block = name.partition("encoder.layers.")[2].partition(".")[0]
        if "post_layernorm" in name or ".head." in name or (block and int(block) >= last):
            yield name


def vision_blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The blocks of the vision tower."""
    inner: Any = model.model
    tower = inner.vision_tower
    layers = getattr(tower, "vision_model", tower).encoder.layers
    assert isinstance(layers, torch.nn.ModuleList)
    return layers


def module_of(model: PreTrainedModel, part: str) -> torch.nn.Module:
    """The module of a part that adapters can be put into."""
    names = {"vision": "vision_tower", "projector": "multi_modal_projector", "language_model": "language_model"}
    return model.get_submodule(f"model.{names[part]}")
