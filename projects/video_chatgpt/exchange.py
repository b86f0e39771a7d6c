"""The preparation tasks that exchange trained weights with the published code: an adapter in, either layout out."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from common import checkpoint as checkpoints
from common.config import ROOT
from common.files import digest
from common.made import make_folder
from common.run import begin
from common.text.tokenizer import load_tokenizer
from common.weights.shards import MAX_SHARD_BYTES, write_shards
from common.weights.source import Header, Weights, WeightsError, weights_folder
from projects.video_chatgpt.adapter import (
    EMBEDDING,
    HEAD,
    LANGUAGE_MODEL,
    NEW_TOKENS,
    enlarged,
    published_state,
    read_adapter,
    refuse_other_base,
    trained_state,
)
from projects.video_chatgpt.delta import COMPUTED
from projects.video_chatgpt.llama_files import copy_llama_files

PUBLISHED_FILE = "video_chatgpt.bin"
LAYOUTS = ("adapter", "merged")


def import_adapter(
    *, adapter: str, run: str, base: str | None, start_id: int, end_id: int, model: Mapping[str, Any]
) -> dict[str, Any]:
    """An adapter as a run folder, which `ckpt=` of evaluate, generate and export and `init=` of train take.

    Args:
        adapter: file in the published layout or in ours, or a folder of weights that holds a projector.
        run: folder to make.
        base: folder or fetched Hub repository of the language model, whose embedding the adapter's is compared with;
            null leaves that out.
        start_id: row of <vid_start> in the adapter's embedding.
        end_id: row of <vid_end>.
        model: configuration of the module, kept in the run folder.

    Returns:
        Numbers read, and rows of the embedding that differ from the base's.

    Raises:
        WeightsError: the adapter is damaged, or of another model; nothing is written.
    """
    path = Path(adapter)
    read = read_adapter(path)
    if read.weight.shape[1] != model["feature_width"]:
        raise WeightsError(
            f"{path} projects features {read.weight.shape[1]} wide, model.feature_width is {model['feature_width']}; "
            "choose the model that it belongs to"
        )
    differing = 0
    if base is not None:
        embedding = Weights(weights_folder(base)).read(EMBEDDING)
        differing = refuse_other_base(read, embedding, source=str(path), base=base)
    state = trained_state(read, start_id=start_id, end_id=end_id, source=str(path))
    config = {"name": "video_chatgpt", "model": model}

    def make(temporary: Path) -> dict[str, Any]:
        begin(temporary, config=yaml.safe_dump(config, sort_keys=False), resumed_from=None, root=ROOT)
        _write_checkpoint(temporary / checkpoints.FOLDER, state)
        return {"numbers": sum(value.numel() for value in state.values()), "rows unlike the base": differing}

    files = Weights(path).identity() if path.is_dir() else digest(path)
    source = {"adapter": files, "ids": [start_id, end_id], "model": model, "base": base}
    return make_folder(Path(run), source=source, make=make)


def _write_checkpoint(folder: Path, state: Mapping[str, Tensor]) -> None:
    folder.mkdir()
    (folder / "direction").write_text("min\n")
    temporary, final = folder / ".step_0000000.ckpt.part", folder / "step_0000000.ckpt"
    torch.save({"state_dict": dict(state), "global_step": 0, "epoch": 0}, temporary)
    manifest = checkpoints.Manifest(
        step=0,
        samples=0,
        size=temporary.stat().st_size,
        crc32=checkpoints.checksum(temporary),
        objective="val/loss",
    )
    checkpoints.commit(temporary, final, manifest)


def export_published(
    *, ckpt: str, runs: str, base: str, target: str, layout: str, max_shard_bytes: int = MAX_SHARD_BYTES
) -> dict[str, Any]:
    """Trained weights in the layouts of the published code.

    Args:
        ckpt: `last`, `best`, a run folder or a file.
        runs: folder of the runs that `last` and `best` choose from.
        base: folder or fetched Hub repository of the language model of the run.
        target: folder to make.
        layout: "adapter": `video_chatgpt.bin` with the three published tensors; "merged": a folder that transformers
            reads, with the vocabulary enlarged by the three tokens and the projector as `model.mm_projector.*`.
        max_shard_bytes: bound on a shard of a merged folder.

    Returns:
        Counts of tensors and bytes.

    Raises:
        WeightsError: the base is not that of the run, or the layout cannot hold what was trained.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout}; there is {', '.join(LAYOUTS)}")
    path = checkpoints.locate(ckpt, Path(runs))
    state = checkpoints.load_file(path)["state_dict"]
    missing = {"model.boundary", "model.projector.weight", "model.projector.bias"} - state.keys()
    if missing:
        raise WeightsError(f"{path} has no {', '.join(sorted(missing))}; give a checkpoint of video_chatgpt")
    weights = Weights(weights_folder(base))
    _refuse_foreign(state, weights)
    source = {"checkpoint": digest(path), "base": weights.identity(), "layout": layout}

    def make(temporary: Path) -> dict[str, Any]:
        if layout == "merged":
            return _write_merged(temporary, state, weights, max_shard_bytes)
        tensors = published_state(state, embedding=weights.read(EMBEDDING))
        torch.save(tensors, temporary / PUBLISHED_FILE)
        return {"tensors": len(tensors), "bytes": sum(value.nbytes for value in tensors.values())}

    return make_folder(Path(target), source=source, make=make)


def _refuse_foreign(state: Mapping[str, Tensor], base: Weights) -> None:
    """Whatever was trained must have a place in the base: low-rank adapters, for one, have none."""
    ours = [name.removeprefix(LANGUAGE_MODEL) for name in state if name.startswith(LANGUAGE_MODEL)]
    foreign = [name for name in ours if name not in base.headers]
    if foreign:
        raise WeightsError(
            f"{len(foreign)} trained tensors are not in {base.folder} (first: {foreign[0]}); give the base of the run, "
            "and merge low-rank adapters into the language model first"
        )


def _write_merged(folder: Path, state: Mapping[str, Tensor], base: Weights, max_shard_bytes: int) -> dict[str, Any]:
    """The language model with a greater vocabulary. New rows of the head are the mean of the others.

    The logit of a mean row is the mean of all logits, so greedy decoding never chooses a new token; sampling is kept
    from it by `suppress_tokens`. Everything is rounded to the dtype of the base's embedding.
    """
    if HEAD not in base.headers:
        raise WeightsError(f"{base.folder}: the head is tied to the embedding; the merged layout needs one of its own")
    rows, width = base.headers[EMBEDDING].shape
    dtype = base.headers[EMBEDDING].dtype
    projector = {f"model.mm_projector.{part}": state[f"model.projector.{part}"] for part in ("weight", "bias")}
    headers = {name: header for name, header in base.headers.items() if not name.endswith(COMPUTED)}
    for name in (EMBEDDING, HEAD):
        if name in headers:
            headers[name] = Header((rows + len(NEW_TOKENS), width), headers[name].dtype)
    headers |= {name: Header(tuple(value.shape), dtype) for name, value in projector.items()}

    def read(name: str) -> Tensor:
        if name in projector:
            return projector[name].to(dtype)
        value = state.get(LANGUAGE_MODEL + name)
        value = base.read(name) if value is None else value.to(headers[name].dtype)
        if name == EMBEDDING:
            return enlarged(value, state["model.boundary"])
        return enlarged(value, value.float().mean(dim=0).expand(2, -1)) if name == HEAD else value

    size = write_shards(folder, headers=headers, read=read, max_shard_bytes=max_shard_bytes)
    feature_width = state["model.projector.weight"].shape[1]
    changes = {"vocab_size": rows + len(NEW_TOKENS), "use_mm_proj": True, "mm_hidden_size": feature_width}
    copy_llama_files(base.folder, folder, as_llama=True, changes=changes | {"mm_use_vid_start_end": True})
    _write_vocabulary(base.folder, folder, first=rows)
    return {"tensors": len(headers), "bytes": size}


def _write_vocabulary(base: Path, folder: Path, *, first: int) -> None:
    """The tokenizer with the three tokens, in the files of today and of 2023, and none of them ever generated."""
    ids = {token: first + place for place, token in enumerate(NEW_TOKENS)}
    tokenizer = load_tokenizer(path=str(base), extra_tokens=NEW_TOKENS)
    found = {token: tokenizer.convert_tokens_to_ids(token) for token in NEW_TOKENS}
    if found != ids:
        raise WeightsError(f"{base}: the tokenizer gives {found} where the embedding ends with row {first - 1}")
    tokenizer.save_pretrained(folder)
    if (folder / "tokenizer.model").is_file():
        _update_json(folder / "added_tokens.json", lambda added: added | ids)
    _update_json(folder / "generation_config.json", lambda entries: entries | {"suppress_tokens": [*ids.values()]})


def _update_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(change(content), indent=2) + "\n", encoding="utf-8")
