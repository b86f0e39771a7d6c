"""The published adapter of Video-ChatGPT: what its training changed, in one file, to and from what ours trains.

`video_chatgpt-7B.bin` holds three float32 tensors: the projector's weight and bias, and the whole input embedding, of
which training moved two rows, <vid_start> and <vid_end> (`train/llava_trainer.py` of the original). Ours are
`model.projector.*` and `model.boundary`, those two rows alone. The row of <vid_patch> is never read: the features
take its places. It is written as the mean of the base's rows, the start that the other two have.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from common.weights.source import Weights, WeightsError, open_tensors

log = logging.getLogger(__name__)

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
NEW_TOKENS = ("<vid_patch>", "<vid_start>", "<vid_end>")  # in the order in which the vocabulary gets them
LANGUAGE_MODEL = "model.language_model."  # before the names of the language model, if it was trained

# Ends of the names in adapters of the original, of its wrappers (module., base_model.model.) and of other base models
# (embed_in), and in the exports of this project.
PARTS = {
    "mm_projector.weight": "weight",
    "mm_projector.bias": "bias",
    "embed_tokens.weight": "embedding",
    "embed_in.weight": "embedding",
    "projector.weight": "weight",
    "projector.bias": "bias",
    "boundary": "boundary",
}


class Adapter(NamedTuple):
    """Content of an adapter file; W is the width of the language model, D that of the features."""

    weight: Tensor  # (W, D)
    bias: Tensor  # (W,)
    embedding: Tensor | None  # (vocabulary, W)
    boundary: Tensor | None  # (2, W)


def read_adapter(path: Path) -> Adapter:
    """Reads an adapter file, or the projector (and embedding) of a folder of weights.

    Raises:
        WeightsError: damaged, holds something else, lacks the projector, or its parts are of different widths.
    """
    if path.is_dir():
        weights = Weights(path)
        named = {name: weights.read(name) for name in weights.headers if _part(name) is not None}
    else:
        content = open_tensors(path)
        named = content if isinstance(content, dict) else {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    parts: dict[str, Tensor] = {}
    for name, tensor in named.items():
        part = _part(name)
        if part is None or part in parts:
            problem = "belongs to no adapter" if part is None else f"is a second {part}"
            raise WeightsError(f"{path}: {name} {problem}; an adapter holds mm_projector and embed_tokens")
        parts[part] = tensor
    missing = {"weight", "bias"} - parts.keys()
    if missing:
        raise WeightsError(f"{path}: no mm_projector.{min(missing)}; give a file with a trained projector")
    adapter = Adapter(parts["weight"], parts["bias"], parts.get("embedding"), parts.get("boundary"))
    _check_widths(path, adapter)
    return adapter


def _part(name: str) -> str | None:
    return next((part for end, part in PARTS.items() if name == end or name.endswith(f".{end}")), None)


def _check_widths(path: Path, adapter: Adapter) -> None:
    width = adapter.weight.shape[0]
    rows = {"bias": adapter.bias[None], "embedding": adapter.embedding, "boundary": adapter.boundary}
    for part, value in rows.items():
        if value is not None and value.shape[1:] != (width,):
            raise WeightsError(f"{path}: {part} is {value.shape[-1]} wide, the projector {width}; it is damaged")


def trained_state(adapter: Adapter, *, start_id: int, end_id: int, source: str) -> dict[str, Tensor]:
    """What our module trains, float32, from an adapter.

    Args:
        adapter: as read.
        start_id: row of <vid_start>; 32004 for the published base.
        end_id: row of <vid_end>; 32005.
        source: name of the file, for messages.

    Returns:
        `model.projector.weight` (W, D), `.bias` (W,) and, unless the file has the projector alone, `model.boundary`
        (2, W).

    Raises:
        WeightsError: the embedding does not have these rows as its last ones.
    """
    state = {"model.projector.weight": adapter.weight.float(), "model.projector.bias": adapter.bias.float()}
    boundary = adapter.boundary
    if boundary is None and adapter.embedding is not None:
        rows = len(adapter.embedding)
        if rows != max(start_id, end_id) + 1:
            raise WeightsError(
                f"{source}: its embedding has {rows} rows, so <vid_start>={start_id} and <vid_end>={end_id} are not "
                "the last two; set task.start_id and task.end_id to the ids of its tokenizer"
            )
        boundary = adapter.embedding[[start_id, end_id]]
    if boundary is not None:
        state["model.boundary"] = boundary.float()
    return {name: value.clone() for name, value in state.items()}


def published_state(state: Mapping[str, Tensor], *, embedding: Tensor) -> dict[str, Tensor]:
    """The three tensors of the published file, float32.

    Args:
        state: what was trained.
        embedding: (V, W), input embedding of the base.

    Returns:
        `model.embed_tokens.weight` (V + 3, W), `model.mm_projector.weight` (W, D) and `.bias` (W,).

    Raises:
        WeightsError: the base is of another width, or the language model was trained too, which the file cannot hold.
    """
    if any(name.startswith(LANGUAGE_MODEL) for name in state):
        raise WeightsError("the language model was trained too, and an adapter has no place for it; use layout=merged")
    return {
        EMBEDDING: enlarged(embedding.float(), state["model.boundary"]),
        "model.mm_projector.weight": state["model.projector.weight"].float().contiguous(),
        "model.mm_projector.bias": state["model.projector.bias"].float().contiguous(),
    }


def enlarged(embedding: Tensor, boundary: Tensor) -> Tensor:
    """An embedding (V, W) with the rows of <vid_patch>, <vid_start> and <vid_end> behind it: (V + 3, W).

    Raises:
        WeightsError: the widths differ.
    """
    if embedding.shape[1] != boundary.shape[1]:
        raise WeightsError(
            f"the base is {embedding.shape[1]} wide, the adapter {boundary.shape[1]}; give the base of its run"
        )
    patch = embedding.float().mean(dim=0, keepdim=True)
    return torch.cat([embedding, patch.to(embedding.dtype), boundary.to(embedding.dtype)])


def refuse_other_base(adapter: Adapter, embedding: Tensor, *, source: str, base: str) -> int:
    """Compares the rows that training did not move with those of the base.

    Args:
        adapter: as read.
        embedding: (V, W), of the base.
        source: name of the adapter, for messages.
        base: name of the base, for messages.

    Returns:
        How many rows differ. A few can, if rows without a video were trained on; they stay the base's, with a warning.

    Raises:
        WeightsError: the widths differ, or most rows do.
    """
    width = adapter.weight.shape[0]
    if embedding.shape[1] != width:
        raise WeightsError(
            f"{source} is for a language model {width} wide, {base} is {embedding.shape[1]} wide; give its own base"
        )
    if adapter.embedding is None:
        return 0
    rows = min(len(embedding), len(adapter.embedding))
    # In pieces, so that memory stays that of the file: float16 rows of the base against float32 ones.
    differing = sum(
        int((ours.to(theirs.dtype) != theirs).any(dim=1).sum())
        for ours, theirs in zip(adapter.embedding[:rows].split(1024), embedding[:rows].split(1024), strict=True)
    )
    if differing > rows // 2:
        raise WeightsError(
            f"{source} was trained on another base than {base}: {differing} of {rows} rows of the embedding differ"
        )
    if differing:
        log.warning(
            "%d of %d rows of the embedding in %s differ from the base's, which are used", differing, rows, source
        )
    return differing
