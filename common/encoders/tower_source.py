"""Where a CLIP or SigLIP comes from: its model, the statistics of its pixels, its tokenizer. Nothing is downloaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, PreTrainedTokenizerBase, SiglipConfig, SiglipModel

from common.encoders.clip import MEAN, STD
from common.random import mix
from common.weights.pretrained import load_pretrained
from common.weights.source import Weights, WeightsError

CLIP, SIGLIP = "clip", "siglip"
FAMILIES: Mapping[str, tuple[Any, Any]] = {CLIP: (CLIPModel, CLIPConfig), SIGLIP: (SiglipModel, SiglipConfig)}
STATISTICS = {CLIP: (MEAN, STD), SIGLIP: ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}  # of pixels in 0..1
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model")
Channels = tuple[float, float, float]


def random_model(architecture: Mapping[str, Any] | None, seed: int) -> tuple[Any, str]:
    """A model whose weights depend on the seed alone, and its identity.

    Raises:
        ValueError: no architecture, or one of another family.
    """
    family = str((architecture or {}).get("model_type"))
    if architecture is None or family not in FAMILIES:
        raise ValueError(
            "tower.weights=random needs tower.architecture: model_type (clip or siglip) and the arguments of its config"
        )
    arguments = {name: value for name, value in architecture.items() if name != "model_type"}
    model_class, config_class = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("tower", seed))
        return model_class(config_class(**arguments)), f"random:{seed}:{json.dumps(architecture, sort_keys=True)}"


def read_model(folder: Path) -> tuple[Any, str]:
    """The model of a folder in float32, and its identity.

    Raises:
        WeightsError: no model, or another one.
    """
    config = folder / "config.json"
    family = str(json.loads(config.read_text()).get("model_type", "")) if config.is_file() else ""
    if family not in FAMILIES:
        raise WeightsError(
            f"{folder} holds {f'a model of type {family}' if family else 'no config.json'}; give the folder of a CLIP "
            "or SigLIP with both towers"
        )
    model = load_pretrained(FAMILIES[family][0], str(folder), dtype=torch.float32)
    for parameter in model.parameters():  # some published files hold transposed views
        parameter.data = parameter.data.contiguous()
    return model, "+".join(f"{name}:{digest}" for name, digest in Weights(folder).identity().items())


def read_statistics(folder: Path | None, family: str) -> tuple[Channels, Channels]:
    """Mean and standard deviation of pixels: what the folder says of its processor, or those of the family."""
    for name in PROCESSOR_FILES:
        if folder is None or not (folder / name).is_file():
            continue
        content = json.loads((folder / name).read_text())
        content = content.get("image_processor", content)
        if "image_mean" in content:
            return tuple(content["image_mean"]), tuple(content["image_std"])
    return STATISTICS[family]


def read_tokenizer(folder: Path | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder; None where it has none, as an export of weights alone."""
    if folder is None or not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    return AutoTokenizer.from_pretrained(folder)
