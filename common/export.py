"""Trained tensors as safetensors with what is needed to load them again."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.files import atomic_folder


def export_trained(state: Mapping[str, Tensor], folder: Path, *, config: str, card: str) -> None:
    """Writes a folder with `trained.safetensors`, `config.yaml` and a model card, and reads the tensors back.

    Args:
        state: what training changed, by parameter name.
        folder: to make; it must not exist.
        config: the composed configuration of the run, YAML.
        card: text of the model card, Markdown.

    Raises:
        FileExistsError: the folder is there.
        OSError: what was written does not read back equal.
    """
    tensors = {name: value.contiguous() for name, value in state.items()}
    with atomic_folder(folder) as temporary:
        path = temporary / "trained.safetensors"
        save_file(tensors, path)
        (temporary / "config.yaml").write_text(config)
        (temporary / "README.md").write_text(card)
        again = load_file(path)
        if again.keys() != tensors.keys() or not all(torch.equal(again[name], tensors[name]) for name in tensors):
            raise OSError(f"{path} does not read back as it was written")
