"""Weights published as a difference to LLaMA: adding it, and taking it.

The rules are those of `scripts/apply_delta.py` of Video-ChatGPT and `llava/model/make_delta.py` of LLaVA: both sides
are rounded to float16 and added there; the embedding and the head of the tuned model may have more rows than the
base's, and these, like the projector, are stored as they are. Here tensors pass one at a time.
"""

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.made import make_folder
from common.weights.shards import MAX_SHARD_BYTES, write_shards
from common.weights.source import Header, Weights, WeightsError, weights_folder
from projects.video_chatgpt.llama_files import copy_llama_files, read_config, tokenizer_files

log = logging.getLogger(__name__)

PROJECTOR = ("model.mm_projector.weight", "model.mm_projector.bias")
ENLARGED = ("model.embed_tokens.weight", "lm_head.weight")
# Buffers that transformers of 2023 saved and that models now compute.
COMPUTED = "rotary_emb.inv_freq"
DTYPES = ("float16", "bfloat16", "float32")


def apply_delta(
    *, base: str, delta: str, target: str, dtype: str = "float16", max_shard_bytes: int = MAX_SHARD_BYTES
) -> dict[str, Any]:
    """Base plus delta: the tuned model as a folder that transformers reads.

    Args:
        base: folder or fetched Hub repository of the base model (LLaMA-7B, not Vicuna).
        delta: the same of the delta, with its configuration and tokenizer, which the result takes over.
        target: folder to make.
        dtype: of the sum and of the result; float16 is what was published.
        max_shard_bytes: bound on a shard of the result.

    Returns:
        Counts of tensors by what happened to them, and of corrected entries of the configuration.

    Raises:
        WeightsError: a folder is incomplete, or the delta is of another model; nothing is written.
    """
    return _combine(base, delta, target, sign=1, dtype=dtype, max_shard_bytes=max_shard_bytes)


def make_delta(
    *, base: str, tuned: str, target: str, dtype: str = "float16", max_shard_bytes: int = MAX_SHARD_BYTES
) -> dict[str, Any]:
    """Tuned minus base: the inverse of `apply_delta` within the rounding of `dtype`. Arguments and errors likewise."""
    return _combine(base, tuned, target, sign=-1, dtype=dtype, max_shard_bytes=max_shard_bytes)


def import_llava(*, source: str, target: str, max_shard_bytes: int = MAX_SHARD_BYTES) -> dict[str, Any]:
    """A LLaVA of 2023 with the delta already applied, as a LLaMA that transformers reads.

    `mmaaz60/LLaVA-7B-Lightening-v1-1` is one: its numbers are right, while its configuration names a model type that
    now means another model, and wrong token ids.

    Args:
        source: folder or fetched Hub repository.
        target: folder to make.
        max_shard_bytes: bound on a shard of the result.

    Returns:
        Counts of tensors and of corrected entries of the configuration.
    """
    folder = weights_folder(source)
    weights = Weights(folder)
    tokenizer_files(folder)
    headers = {name: header for name, header in weights.headers.items() if not name.endswith(COMPUTED)}

    def make(temporary: Path) -> dict[str, Any]:
        size = write_shards(temporary, headers=headers, read=weights.read, max_shard_bytes=max_shard_bytes)
        corrected = copy_llama_files(folder, temporary, as_llama=True)
        skipped = len(weights.headers) - len(headers)
        return {"copied": len(headers), "inv_freq skipped": skipped, "bytes": size, "corrected": corrected}

    return make_folder(Path(target), source={"weights": weights.identity()}, make=make)


@dataclass
class Plan:
    """What happens to each tensor."""

    combined: dict[str, Header] = field(default_factory=dict)  # in both, with one shape
    enlarged: dict[str, Header] = field(default_factory=dict)  # more rows than in the base
    kept: dict[str, Header] = field(default_factory=dict)  # not in the base
    skipped: list[str] = field(default_factory=list)
    base_only: list[str] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, Any]:
        """Counts."""
        return {
            "combined": len(self.combined),
            "enlarged": len(self.enlarged),
            "kept": len(self.kept),
            "inv_freq skipped": len(self.skipped),
            "base only": len(self.base_only),
        }


def plan_of(base: Weights, other: Weights, *, dtype: torch.dtype) -> Plan:
    """Sorts the tensors of a delta, or of a tuned model, by the rules.

    Raises:
        WeightsError: it is of another model than the base; lists the first tensors that say so.
    """
    plan, wrong = Plan(), []
    for name, header in other.headers.items():
        wanted = Header(header.shape, dtype)
        if name.endswith(COMPUTED):
            plan.skipped.append(name)
        elif name not in base.headers and name in PROJECTOR:
            plan.kept[name] = wanted
        elif name not in base.headers:
            wrong.append(f"{name} is not in the base")
        elif header.shape == base.headers[name].shape:
            plan.combined[name] = wanted
        elif name in ENLARGED and _has_more_rows(header, base.headers[name]):
            plan.enlarged[name] = wanted
        else:
            wrong.append(f"{name} is {header.shape}, in the base {base.headers[name].shape}")
    plan.base_only = [n for n in base.headers if n not in other.headers and not n.endswith(COMPUTED)]
    if wrong or not plan.combined:
        detail = "; ".join(wrong[:5]) or "no tensor is in both"
        raise WeightsError(
            f"{other.folder} does not belong to the base {base.folder} ({len(wrong)} tensors: {detail}); "
            "give the base that it was made from"
        )
    return plan


def _has_more_rows(larger: Header, smaller: Header) -> bool:
    return larger.shape[1:] == smaller.shape[1:] and larger.shape[0] > smaller.shape[0]


def _combine(base: str, other: str, target: str, *, sign: int, dtype: str, max_shard_bytes: int) -> dict[str, Any]:
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype}; there is {', '.join(DTYPES)}")
    left, right = Weights(weights_folder(base)), Weights(weights_folder(other))
    read_config(right.folder)
    tokenizer_files(right.folder)
    plan = plan_of(left, right, dtype=getattr(torch, dtype))
    if plan.base_only:
        names = ", ".join(plan.base_only[:5])
        log.warning("%d tensors of the base alone are not in the result: %s", len(plan.base_only), names)
    wanted = plan.combined | plan.enlarged | plan.kept
    headers = {name: wanted[name] for name in right.headers if name in wanted}  # in the order of their files

    def make(temporary: Path) -> dict[str, Any]:
        read = partial(_sum, left, right, headers, sign)
        size = write_shards(temporary, headers=headers, read=read, max_shard_bytes=max_shard_bytes, description="delta")
        corrected = copy_llama_files(right.folder, temporary, as_llama=sign > 0)
        return plan.figures | {"bytes": size, "corrected": corrected}

    source = {"base": left.identity(), "other": right.identity(), "sign": sign, "dtype": dtype}
    return make_folder(Path(target), source=source, make=make)


def _sum(base: Weights, other: Weights, headers: dict[str, Header], sign: int, name: str) -> Tensor:
    """One tensor of the result: other + sign * base, in the dtype of its header, over the rows that the base has."""
    value = other.read(name).to(headers[name].dtype, copy=True)
    if name in base.headers:
        addend = base.read(name).to(value.dtype)
        value[: len(addend)] += addend if sign > 0 else -addend
    if not value.isfinite().all():
        raise WeightsError(f"{name} of {other.folder} is not finite in {value.dtype}; a shard is damaged, fetch again")
    return value
