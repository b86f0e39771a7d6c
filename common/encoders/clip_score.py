"""How well pictures agree with texts, by a CLIP of both towers."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, CLIPModel

from common.encoders.clip import MEAN, STD
from common.shapes import expect
from common.weights.pretrained import load_pretrained
from common.weights.source import weights_folder


class ClipSimilarity(nn.Module):
    """Cosine of the embeddings of pictures and texts (CLIPScore without its factor of 2.5, arXiv:2104.08718)."""

    mean: Tensor
    std: Tensor

    def __init__(self, *, weights: str, dtype: str = "float32") -> None:
        """
        Args:
            weights: folder or fetched Hub id of a CLIP with its tokenizer.
            dtype: of the weights.
        """
        super().__init__()
        folder = weights_folder(weights)
        self.identity = str(Path(weights))
        self.model = load_pretrained(CLIPModel, str(folder), dtype=getattr(torch, dtype)).eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.size = int(self.model.config.vision_config.image_size)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255, persistent=False)

    def train(self, mode: bool = True) -> "ClipSimilarity":
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, clips: Tensor, texts: Sequence[str]) -> Tensor:
        """Mean over the frames of each clip.

        Args:
            clips: uint8 (B, F, 3, H, W), 0..255; squashed to the size of the tower.
            texts: B of them; one that is longer than the tower reads is an error.

        Returns:
            float32 (B,), -1..1.
        """
        expect(clips, "B F C H W", name="clips", dtype=torch.uint8, C=3)
        ids = self.tokenizer(list(texts), padding=True, return_tensors="pt").to(self.model.device)
        limit = self.model.config.text_config.max_position_embeddings
        if ids["input_ids"].shape[1] > limit:
            longest = max(texts, key=len)
            raise ValueError(f'"{longest}" is longer than the {limit} tokens that {self.identity} reads; shorten it')
        frames = functional.interpolate(
            clips.flatten(0, 1).float(), size=(self.size, self.size), mode="bicubic", antialias=True
        )
        pixels = ((frames - self.mean) / self.std).to(self.model.dtype)
        seen = functional.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output.float(), dim=-1)
        told = functional.normalize(self.model.get_text_features(**ids).pooler_output.float(), dim=-1)
        return torch.einsum("bfd,bd->bf", seen.view(*clips.shape[:2], -1), told).mean(dim=1)
