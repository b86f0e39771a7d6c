"""Files of named tensors, as safetensors or as `.bin`, read back after they were written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.weights.source import open_tensors
from common.weights.verified import refuse_difference

SUFFIXES = ("safetensors", "bin")


def write_tensors(
    stem: Path, tensors: Mapping[str, Tensor], *, kind: str, metadata: Mapping[str, str] | None = None
) -> int:
    """Writes `<stem>.safetensors` or `<stem>.bin`.

    Args:
        stem: path without suffix.
        tensors: by name.
        kind: "safetensors" or "bin".
        metadata: goes with them; in a `.bin` beside them, as `<stem>.json`.

    Returns:
        Bytes of all tensors.

    Raises:
        OSError: what was written does not read back equal.
    """
    path = stem.with_name(f"{stem.name}.{kind}")
    content = {name: value.contiguous() for name, value in tensors.items()}
    if kind == "bin":
        torch.save({name: value.clone() for name, value in content.items()}, path)  # not the storage it is a view of
        if metadata is not None:
            stem.with_name(f"{stem.name}.json").write_text(json.dumps(dict(metadata), indent=2) + "\n")
        again: Any = open_tensors(path)
    else:
        save_file(content, path, metadata=None if metadata is None else dict(metadata))
        again = load_file(path)
    refuse_difference(path, found=again, wanted=content, read_back=again.__getitem__, read=content.__getitem__)
    return sum(value.nbytes for value in content.values())


def flat_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """An optimizer's state as named tensors (`<number of the parameter>.<name>`), and what else there is, as text."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}

    def walk(node: Any, name: str) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                walk(value, f"{name}.{key}" if name else str(key))
        elif isinstance(node, Tensor):
            tensors[name] = node
        else:
            rest[name] = node

    walk(state["state"], "")
    return tensors, {"param_groups": json.dumps(state["param_groups"]), "values": json.dumps(rest)}
