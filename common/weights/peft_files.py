"""A folder in the layout of peft: low-rank adapters and what was trained whole beside them, without the base.

The file is written as peft writes it (github.com/huggingface/peft, "Checkpoint format"): names begin with
`base_model.model.`, the name of the adapter is left out, and a module that was trained whole is named among
`modules_to_save`. peft itself is not needed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from common.lora import ADAPTER, adapted_weights
from common.weights.verified import refuse_difference

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."


def write_peft(
    folder: Path, *, state: Mapping[str, Tensor], alphas: Mapping[str, float], whole: Sequence[str], base: str
) -> dict[str, int]:
    """Writes the two files, and reads the tensors back.

    Args:
        folder: that is there.
        state: factors of the adapters and tensors of the modules in `whole`, by their names in the model.
        alphas: alpha of each adapter, by the name of its layer's weight.
        whole: modules of the model that were trained whole.
        base: folder or Hub id of the model that the adapters belong to.

    Returns:
        Tensors and their bytes.

    Raises:
        ValueError: an adapter lacks one of its factors.
        OSError: what was written does not read back equal.
    """
    tensors = {_name(name): value.contiguous() for name, value in state.items()}
    ranks = {weight: state[first].shape[0] for weight, (first, _) in adapted_weights(state).items()}
    (folder / CONFIG).write_text(json.dumps(_config(ranks, alphas, whole, base), indent=2) + "\n", encoding="utf-8")
    path = folder / TENSORS
    save_file(tensors, path, metadata={"format": "pt"})
    again = load_file(path)
    refuse_difference(path, found=again, wanted=tensors, read_back=again.__getitem__, read=tensors.__getitem__)
    return {"tensors": len(tensors), "bytes": sum(value.nbytes for value in tensors.values())}


def _name(name: str) -> str:
    """`q_proj.lora_A.default.weight` is `q_proj.lora_A.weight` there."""
    return PREFIX + re.sub(rf"(\.{ADAPTER}[AB])\.[^.]+\.", r"\1.", name)


def _config(ranks: Mapping[str, int], alphas: Mapping[str, float], whole: Sequence[str], base: str) -> dict[str, Any]:
    """Layers by their full names: a projection of the vision tower is called as one of the language model."""
    layers = [weight.removesuffix(".weight") for weight in ranks]
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    patterns = {weight: re.escape(weight.removesuffix(".weight")) for weight in ranks}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {patterns[weight]: value for weight, value in ranks.items() if value != rank},
        "alpha_pattern": {patterns[weight]: alphas[weight] for weight in ranks if alphas[weight] != alpha},
        "target_modules": sorted(layers),
        "modules_to_save": list(whole) or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
    }
