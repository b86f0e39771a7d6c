"""The recipe of a model that reads no weights: random ones, of the same architecture."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What cannot be traced without storage. Fused kernels would store less than the plain ones that are counted instead.
OFF = {"compile_blocks": False, "liger": False, "quantize": False}
TOKENIZER = "common/tiny/weights/clip"  # of a text encoder that has none beside its weights: only their number counts
PARTS = ("vision", "language_model")  # names of published parts, where a model is composed of them


def unloaded(node: Any, *, off: Mapping[str, Any] = OFF) -> Any:
    """A part of a configuration in which every recipe with `weights` and `architecture` takes random weights.

    Where `weights` is a folder, the architecture is that of its config.json.

    Args:
        node: the part.
        off: values that replace those of such a recipe: what a trace cannot have; none for a real step.
    """
    if isinstance(node, list):
        return [unloaded(each, off=off) for each in node]
    if not isinstance(node, Mapping):
        return node
    changed = {name: unloaded(value, off=off) for name, value in node.items()}
    if "weights" not in node or "architecture" not in node:
        return changed
    folder = Path(str(node["weights"])) / "config.json"
    if folder.is_file():
        changed["architecture"] = json.loads(folder.read_text())
    changed |= {name: value for name, value in off.items() if name in node}
    changed |= {name: None for name in PARTS if name in node}
    changed |= {"tokenizer": TOKENIZER} if node.get("tokenizer", "") is None else {}
    return changed | {"weights": "random"}


def uses(node: Any, key: str) -> list[Any]:
    """The values of a key, wherever it stands in a part of a configuration."""
    if isinstance(node, list):
        return [value for each in node for value in uses(each, key)]
    if not isinstance(node, Mapping):
        return []
    below = [value for each in node.values() for value in uses(each, key)]
    return [node[key], *below] if key in node else below


def paths_of(node: Any, key: str, prefix: str = "") -> list[str]:
    """Dotted places of a key in a part of a configuration."""
    if not isinstance(node, Mapping):
        return []
    below = [path for name, each in node.items() for path in paths_of(each, key, f"{prefix}{name}.")]
    return [prefix + key, *below] if key in node else below
