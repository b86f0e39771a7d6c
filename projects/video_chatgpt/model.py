"""The model: a language model that reads projected video features between two learned rows."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.shapes import expect


class VideoLanguageModel(nn.Module):
    """Video-ChatGPT (arXiv:2306.05424, section 3): a linear projector into a causal language model.

    The published code marks the video by two new tokens and makes the whole embedding matrix trainable, while the
    gradient reaches only those two rows. Here the two rows are a parameter of their own (`boundary`), the new ids
    never enter the vocabulary, and the head cannot suggest them.
    """

    def __init__(self, *, language_model: PreTrainedModel, feature_width: int) -> None:
        """
        Args:
            language_model: decoder with head.
            feature_width: D of the visual features.
        """
        super().__init__()
        self.language_model = language_model
        embedding = language_model.get_input_embeddings().weight
        assert isinstance(embedding, Tensor)
        self.projector = nn.Linear(feature_width, embedding.shape[1], device=embedding.device)
        # The published start: the mean of all rows.
        self.boundary = nn.Parameter(embedding.detach().float().mean(dim=0).repeat(2, 1))

    def visual_rows(self, features: Tensor) -> Tensor:
        """Projected features between the start row and the end row.

        Args:
            features: (B, N, D).

        Returns:
            (B, N + 2, width of the language model).
        """
        rows = self.projector(features.to(self.projector.weight.dtype))
        start, end = self.boundary.to(rows.dtype).expand(len(rows), 2, -1).split(1, dim=1)
        return torch.cat([start, rows, end], dim=1)

    def embed(self, ids: Tensor, visual_start: Tensor, features: Tensor) -> Tensor:
        """Input embeddings with the visual rows written over their places.

        Args:
            ids: int64 (B, L); any valid id at the visual places.
            visual_start: int64 (B,), place of the start row.
            features: (B, N, D).

        Returns:
            (B, L, width).
        """
        expect(ids, "B L", name="ids", dtype=torch.long)
        expect(features, "B N D", name="features", B=ids.shape[0], D=self.projector.in_features)
        embeddings = self.language_model.get_input_embeddings()(ids)
        rows = self.visual_rows(features).to(embeddings.dtype)
        places = visual_start[:, None] + torch.arange(rows.shape[1], device=ids.device)
        return embeddings.scatter(1, places[..., None].expand_as(rows), rows)


class TrainableCount(NamedTuple):
    """Numbers that a configuration learns, by part."""

    projector: int
    boundary: int
    language_model: int


def count_trainable(model: VideoLanguageModel) -> TrainableCount:
    """How many numbers of each part train."""

    def trained(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)

    return TrainableCount(trained(model.projector), model.boundary.numel(), trained(model.language_model))
