"""The recipe of a model that reads no weights: random ones, of the same architecture."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What cannot be traced without storage. Fused kernels would store less than the plain ones that are counted instead.
OFF = {"compile_blocks": False, "liger": False, "quantize": False}
TOKENIZER = "common/tiny/weights/clip"  # of a text encoder that has none beside its weights: only their number counts
STARTS = ("stage1",)  # run folders whose weights a model goes on from
PARTS = ("vision", "language_model")  # names of published parts, where a model is composed of them


def unloaded(node: Any, *, off: Mapping[str, Any] = OFF, name: str = "") -> Any:
    """A part of a configuration in which every recipe with `weights` and `architecture` takes random weights.

    Where `weights` is a folder, the architecture is that of its config.json, or of the part of a pipeline.

    Args:
        node: the part.
        off: values that replace those of such a recipe: what a trace cannot have; none for a real step.
        name: key that the part stands under.
    """
    if isinstance(node, list):
        return [unloaded(each, off=off) for each in node]
    if not isinstance(node, Mapping):
        return node
    changed = {key: unloaded(value, off=off, name=key) for key, value in node.items()}
    changed |= {key: "random" for key in STARTS if node.get(key) is not None}
    if "weights" not in node or "architecture" not in node:
        return changed
    folder = Path(str(node["weights"]))
    changed |= {"architecture": found} if (found := _architecture(folder, name)) else {}
    changed |= {key: value for key, value in off.items() if key in node}
    changed |= {key: None for key in PARTS if key in node}
    if node.get("tokenizer", "") is None:
        changed["tokenizer"] = str(folder) if (folder / "tokenizer").is_dir() else TOKENIZER
    return changed | {"weights": "random"}


def _architecture(folder: Path, part: str) -> dict[str, Any] | None:
    """The architecture that a folder of weights names, itself or in the folder of a part; None where none does."""
    for file in (folder / "config.json", folder / part / "config.json"):
        if file.is_file():
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return {key: value for key, value in content.items() if not key.startswith("_")}
    return None


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
