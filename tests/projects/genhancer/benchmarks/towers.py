"""A tower whose answers are known, and folders of small random models."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from projects.genhancer.benchmarks.reader import Preprocess, Reader

TINY = Path(__file__).resolve().parents[4] / "common" / "tiny" / "weights" / "clip"
SIZE = 32


class Grey:
    """Sees how light a picture is; "light" is the direction of white, "dark" of black, "same" of both equally."""

    image_size = 8

    def images(self, pixels: Tensor) -> Tensor:
        light = pixels.float().mean(dim=(1, 2, 3)) / 255
        return 3 * torch.stack([light, 1 - light], dim=1)  # not of length 1

    def texts(self, texts: Sequence[str]) -> Tensor:
        known = {"light": [2.0, 0.0], "dark": [0.0, 2.0], "same": [1.0, 1.0]}
        return torch.tensor([known[next(word for word in known if word in text)] for text in texts])

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        return 100 * functional.normalize(images, dim=-1) @ functional.normalize(texts, dim=-1).T


def grey_reader(batch: int = 7) -> Reader:
    return Reader(Grey(), preprocess=Preprocess(folder=None, family="clip", image_size=8), batch=batch, workers=2)


def write_grey(path: Path, level: int, *, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)


def noise(seed: int, *, height: int = 47, width: int = 71) -> NDArray[np.uint8]:
    """A picture of coarse spots, so that a resize matters."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_model(folder: Path, family: str, *, seed: int = 0) -> Path:
    """A random model of both towers with its processor and tokenizer, as published folders are."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    part = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = part | {"image_size": SIZE, "patch_size": 8}
    text = part | {"vocab_size": len(tokenizer), "max_position_embeddings": 24}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(seed)
    if family == "clip":
        projected = {"projection_dim": 16}
        config = CLIPConfig(text_config=text | projected, vision_config=vision | projected, projection_dim=16)
        model, square = CLIPModel(config), {"height": SIZE, "width": SIZE}
        processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=square)
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        processor = SiglipImageProcessorPil(
            size={"height": SIZE, "width": SIZE}, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
        )
    with torch.no_grad():  # far from one another, as trained ones
        model.logit_scale.fill_(math.log(100))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_mean"]
    return folder
