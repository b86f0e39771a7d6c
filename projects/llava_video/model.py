"""The model: a vision language model of transformers, fed with pixels and texts in the layout of this project."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.chat.rows import ChatText
from common.shapes import expect
from projects.llava_video.families import Family


class VisionLanguageModel(nn.Module):
    """Visual rows take the places that the text keeps for them; the rest is a causal language model.

    transformers compares the number of placeholders with that of features over a whole batch; here each sample has
    its own places, which `common.chat.rows` counted from its own frames.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, model: PreTrainedModel, family: Family, mean: Sequence[float], std: Sequence[float]) -> None:
        """
        Args:
            model: of the family.
            family: how frames become rows.
            mean: of the channels of the vision tower's training data, for values 0..1.
            std: the same.
        """
        super().__init__()
        self.vlm, self.family = model, family
        model.get_submodule("model.multi_modal_projector").register_forward_pre_hook(_own_dtype)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255, persistent=False)

    @property
    def image_size(self) -> int:
        """Side of the square frames, pixels."""
        config: Any = self.vlm.config
        return int(config.vision_config.image_size)

    def visual_rows(self, pixels: Tensor, num_frames: Sequence[int]) -> Tensor:
        """Rows of all clips, one after the other.

        Args:
            pixels: uint8 (B, T, C, H, W), 0..255.
            num_frames: frames of each clip that are there, B numbers.

        Returns:
            (P, width).
        """
        size = self.image_size
        expect(pixels, "B T C H W", name="pixels", dtype=torch.uint8, B=len(num_frames), C=3, H=size, W=size)
        table = self.vlm.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        rows, first = [], 0
        for frames, run in groupby(num_frames):  # clips of equal length go through the tower together
            last = first + len(list(run))
            clips = (pixels[first:last, :frames].float() - self.mean) / self.std
            rows.append(self.family.rows(self.vlm, clips.to(table.dtype)).flatten(0, 1))
            first = last
        return torch.cat(rows)

    def embed(self, text: ChatText, pixels: Tensor | None, num_frames: Sequence[int]) -> Tensor:
        """Input embeddings with the visual rows written over their places: (B, L, width).

        A batch without a video still passes one black frame through tower and projector, times zero: under data
        parallelism every rank must have a gradient for what trains.
        """
        embeddings: Tensor = self.vlm.get_input_embeddings()(text.ids)
        if pixels is None:
            if not (torch.is_grad_enabled() and any(p.requires_grad for p in self.vlm.model.parameters())):
                return embeddings
            black = torch.zeros(1, 1, 3, self.image_size, self.image_size, dtype=torch.uint8, device=text.ids.device)
            return embeddings + 0 * self.visual_rows(black, [1]).sum().to(embeddings.dtype)
        rows = self.visual_rows(pixels, num_frames).to(embeddings.dtype)
        expect(text.visual_places, "P", name="places of visual rows", P=len(rows))
        return embeddings.flatten(0, 1).index_copy(0, text.visual_places, rows).view_as(embeddings)


def _own_dtype(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Casts the input to the dtype of the weights: a projector that learns is float32 beside a tower in bfloat16."""
    dtype = next(module.parameters()).dtype
    return tuple(each.to(dtype) for each in inputs)
