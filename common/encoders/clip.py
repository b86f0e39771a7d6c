"""Frozen CLIP vision tower: uint8 frames in, patch features of an inner layer out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from common.files import digest
from common.random import mix
from common.shapes import expect
from common.weights.pretrained import load_pretrained

# Channel statistics of OpenAI's CLIP, on pixels in 0..1.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ClipPatches(nn.Module):
    """Patch features of a CLIP layer. Blocks behind that layer are not built into the forward at all."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        weights: str,
        layer: int = -2,
        architecture: Mapping[str, Any] | None = None,
        seed: int = 0,
        dtype: str = "float32",
    ) -> None:
        """
        Args:
            weights: Hub id or folder of a CLIP model, or "random" for `architecture` with random weights.
            layer: index into the hidden states (0 is the embedding, -1 the last block, -2 the one before).
            architecture: arguments of CLIPVisionConfig; only for "random".
            seed: of the random weights.
            dtype: of the weights and the features, such as "float16".
        """
        super().__init__()
        tower, self.identity = _tower(weights, architecture, seed)
        blocks = len(tower.encoder.layers)
        keep = layer if layer >= 0 else blocks + 1 + layer
        if not 0 <= keep <= blocks:
            raise ValueError(
                f"encoder.layer={layer}: the tower has {blocks} blocks, so 0..{blocks} or -{blocks + 1}..-1"
            )
        tower.encoder.layers = tower.encoder.layers[:keep]
        self.tower = tower.to(getattr(torch, dtype)).eval().requires_grad_(False)
        self.layer = layer
        image_size, patch_size = tower.config.image_size, tower.config.patch_size
        assert isinstance(image_size, int), "CLIP's towers are square"
        assert isinstance(patch_size, int), "CLIP's towers are square"
        self.image_size = image_size
        self.num_patches = (image_size // patch_size) ** 2
        self.width = int(tower.config.hidden_size)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255, persistent=False)

    def train(self, mode: bool = True) -> "ClipPatches":
        """Stays in eval mode: the tower is frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Features of frames.

        Args:
            pixels: uint8 (B, T, C, H, W), 0..255, H = W = `image_size`.

        Returns:
            (B, T, P, D) in the dtype of the tower; the class token is dropped.
        """
        expect(pixels, "B T C H W", name="pixels", dtype=torch.uint8, C=3, H=self.image_size, W=self.image_size)
        frames = (pixels.flatten(0, 1).float() - self.mean) / self.std
        hidden = self.tower(frames.to(next(self.tower.parameters()).dtype)).last_hidden_state
        patches: Tensor = hidden[:, 1:].unflatten(0, pixels.shape[:2])
        return patches


def _tower(weights: str, architecture: Mapping[str, Any] | None, seed: int) -> tuple[CLIPVisionModel, str]:
    if weights != "random":
        model = load_pretrained(CLIPVisionModel, weights, dtype=torch.float32)
        file = Path(weights) / "model.safetensors"
        return model, digest(file) if file.exists() else f"{weights}@{model.config._commit_hash}"
    if architecture is None:
        raise ValueError("encoder.weights=random needs encoder.architecture, the arguments of CLIPVisionConfig")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("clip", seed))
        return CLIPVisionModel(CLIPVisionConfig(**architecture)), f"random:{seed}:{sorted(architecture.items())}"
