"""LLaMA as Meta gave it out (`params.json`, `consolidated.XX.pth`), turned into a folder that transformers reads.

transformers no longer ships a converter. The layout is that of `llama/model.py` in github.com/facebookresearch/llama:
each matrix is divided over model-parallel parts along the axis that its layer splits, and the rotary embedding turns
neighbouring pairs of channels (2i, 2i + 1), where transformers turns (i, i + half).
"""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece
import torch
from torch import Tensor

from common.files import digest
from common.made import make_folder
from common.weights.shards import MAX_SHARD_BYTES, write_shards
from common.weights.source import Header, WeightsError, open_tensors
from projects.video_chatgpt.llama_files import TOKEN_IDS


class Origin(NamedTuple):
    """Where a tensor of transformers comes from."""

    name: str  # in Meta's files
    axis: int | None  # along which the parts are joined; None: each part holds all of it
    rotary: bool = False


OUTER = {
    "model.embed_tokens.weight": Origin("tok_embeddings.weight", 1),
    "model.norm.weight": Origin("norm.weight", None),
    "lm_head.weight": Origin("output.weight", 0),
}
INNER = {
    "self_attn.q_proj": Origin("attention.wq", 0, rotary=True),
    "self_attn.k_proj": Origin("attention.wk", 0, rotary=True),
    "self_attn.v_proj": Origin("attention.wv", 0),
    "self_attn.o_proj": Origin("attention.wo", 1),
    "mlp.gate_proj": Origin("feed_forward.w1", 0),
    "mlp.down_proj": Origin("feed_forward.w2", 1),
    "mlp.up_proj": Origin("feed_forward.w3", 0),
    "input_layernorm": Origin("attention_norm", None),
    "post_attention_layernorm": Origin("ffn_norm", None),
}
COMPUTED = ("rope.freqs",)
# Of LLaMA 1 and 2. Anything else in params.json is another architecture.
PARAMS = {"dim", "n_layers", "n_heads", "n_kv_heads", "norm_eps", "vocab_size", "multiple_of", "ffn_dim_multiplier"}
TOKENIZER_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "legacy": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "add_bos_token": True,
    "add_eos_token": False,
}


def llama_to_hf(
    *,
    source: str,
    target: str,
    max_positions: int = 2048,
    dtype: str = "float16",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> dict[str, Any]:
    """Converts LLaMA 1 or 2, one tensor in memory at a time.

    Args:
        source: folder with `params.json` and `consolidated.XX.pth`; `tokenizer.model` in it or in the folder above.
        target: folder to make.
        max_positions: longest text that the model was trained with: 2048 for LLaMA 1.
        dtype: of the result; the files are float16.
        max_shard_bytes: bound on a shard of the result.

    Returns:
        Counts of parts, tensors and bytes.

    Raises:
        WeightsError: a file is missing or damaged, or of another architecture; nothing is written.
    """
    folder = Path(source)
    params = _params(folder)
    tokenizer = _tokenizer(folder)
    paths = sorted(folder.glob("consolidated.*.pth"))
    if [path.name for path in paths] != [f"consolidated.{part:02d}.pth" for part in range(len(paths))] or not paths:
        found = ", ".join(path.name for path in paths) or "none"
        raise WeightsError(f"{folder}: the parts should be consolidated.00.pth and on, found {found}; fetch the others")
    parts = [open_tensors(path) for path in paths]
    origins = _origins(params["n_layers"])
    _check_names(folder, parts, origins)
    headers = {name: _header(parts, origin, getattr(torch, dtype)) for name, origin in origins.items()}
    config = _config(params, headers, max_positions=max_positions, dtype=dtype)
    _check_vocabulary(tokenizer, headers)

    def make(temporary: Path) -> dict[str, Any]:
        read = partial(_tensor, parts, origins, headers, params)
        size = write_shards(temporary, headers=headers, read=read, max_shard_bytes=max_shard_bytes)
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        shutil.copyfile(tokenizer, temporary / "tokenizer.model")
        (temporary / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")
        return {"parts": len(parts), "tensors": len(headers), "bytes": size}

    files = {path.name: digest(path) for path in [*paths, folder / "params.json", tokenizer]}
    settings = {"files": files, "max_positions": max_positions, "dtype": dtype}
    return make_folder(Path(target), source=settings, make=make)


def to_half_split(weight: Tensor, *, heads: int) -> Tensor:
    """Rows of a query or key matrix from pairs (2i, 2i + 1) to pairs (i, i + half) of each head.

    Args:
        weight: (heads * width of a head, D).
        heads: of this matrix.
    """
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _params(folder: Path) -> dict[str, Any]:
    path = folder / "params.json"
    if not path.is_file():
        raise WeightsError(f"{path} is not there; give the folder of one size, such as LLaMA/7B")
    params: dict[str, Any] = json.loads(path.read_text())
    foreign = sorted(params.keys() - PARAMS)
    if foreign:
        raise WeightsError(f"{path}: {', '.join(foreign)} is not of LLaMA 1 or 2, which this converts")
    return params


def _tokenizer(folder: Path) -> Path:
    for place in (folder, folder.parent):
        if (place / "tokenizer.model").is_file():
            return place / "tokenizer.model"
    raise WeightsError(f"tokenizer.model is neither in {folder} nor above it; fetch it too")


def _origins(layers: int) -> dict[str, Origin]:
    inner = {
        f"model.layers.{layer}.{ours}.weight": origin._replace(name=f"layers.{layer}.{origin.name}.weight")
        for layer in range(layers)
        for ours, origin in INNER.items()
    }
    embedding, *rest = OUTER.items()
    return dict([embedding, *inner.items(), *rest])


def _check_names(folder: Path, parts: list[dict[str, Tensor]], origins: dict[str, Origin]) -> None:
    wanted = {origin.name for origin in origins.values()}
    for number, part in enumerate(parts):
        missing, foreign = sorted(wanted - part.keys()), sorted(part.keys() - wanted - set(COMPUTED))
        if missing or foreign:
            raise WeightsError(
                f"{folder}/consolidated.{number:02d}.pth does not fit params.json; missing: {missing[:3] or 'none'}, "
                f"unknown: {foreign[:3] or 'none'}; fetch both from one place"
            )


def _header(parts: list[dict[str, Tensor]], origin: Origin, dtype: torch.dtype) -> Header:
    shapes = [list(part[origin.name].shape) for part in parts]
    joined = shapes[0].copy()
    if origin.axis is not None:
        joined[origin.axis] = sum(shape[origin.axis] for shape in shapes)
    return Header(tuple(joined), dtype)


def _tensor(
    parts: list[dict[str, Tensor]],
    origins: dict[str, Origin],
    headers: dict[str, Header],
    params: dict[str, Any],
    name: str,
) -> Tensor:
    origin, header = origins[name], headers[name]
    pieces = [part[origin.name] for part in parts]
    if origin.axis is None and not all(torch.equal(piece, pieces[0]) for piece in pieces):
        raise WeightsError(f"{origin.name} differs between the parts; they are of different models")
    joined = pieces[0] if origin.axis is None else torch.cat(pieces, dim=origin.axis)
    if origin.rotary:
        heads = params["n_heads"] if name.endswith("q_proj.weight") else _kv_heads(params)
        joined = to_half_split(joined, heads=heads)
    return joined.to(header.dtype)


def _kv_heads(params: dict[str, Any]) -> int:
    return int(params.get("n_kv_heads") or params["n_heads"])


def _config(params: dict[str, Any], headers: dict[str, Header], *, max_positions: int, dtype: str) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": headers["model.embed_tokens.weight"].shape[0],
        "hidden_size": params["dim"],
        "intermediate_size": headers["model.layers.0.mlp.gate_proj.weight"].shape[0],
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": params["n_heads"],
        "num_key_value_heads": _kv_heads(params),
        "rms_norm_eps": params["norm_eps"],
        "max_position_embeddings": max_positions,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "dtype": dtype,
        **TOKEN_IDS,
    }


def _check_vocabulary(tokenizer: Path, headers: dict[str, Header]) -> None:
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer)).get_piece_size()
    except (RuntimeError, OSError) as error:
        raise WeightsError(f"{tokenizer}: not a sentencepiece model; fetch it again") from error
    rows = headers["model.embed_tokens.weight"].shape[0]
    if pieces != rows:
        raise WeightsError(f"{tokenizer} has {pieces} pieces, the embedding {rows} rows; they are of different models")
