"""What a trained run looks like to others: the adapter file of the published code, and a folder for transformers."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.card import Card
from common.export import Layout, Request, TrainedRun
from common.text.tokenizer import load_tokenizer
from common.weights.source import Header, Weights, WeightsError, open_tensors, weights_folder
from common.weights.trained import lora_scale, with_training
from common.weights.verified import refuse_difference, write_weights
from projects.video_chatgpt.adapter import EMBEDDING, HEAD, LANGUAGE_MODEL, NEW_TOKENS, enlarged, published_state
from projects.video_chatgpt.delta import COMPUTED
from projects.video_chatgpt.llama_files import copy_llama_files, read_config

PUBLISHED_FILE = "video_chatgpt.bin"
PROJECTOR = {f"model.mm_projector.{part}": f"model.projector.{part}" for part in ("weight", "bias")}


def base_of(run: TrainedRun, request: Request) -> Weights:
    """The language model that a run started from.

    Raises:
        WeightsError: it has no files, they are not there, or the checkpoint is not of this method.
    """
    missing = {"model.boundary", *PROJECTOR.values()} - run.state.keys()
    if missing:
        raise WeightsError(f"{run.checkpoint} has no {', '.join(sorted(missing))}; this layout needs them")
    name = request.base or run.config["model"]["language_model"]["weights"]
    if name == "random":
        raise WeightsError(
            "the run has model.language_model.weights=random, and no files of it to build this layout on"
        )
    try:
        return Weights(weights_folder(name))
    except WeightsError as error:
        raise WeightsError(f"{error}; if the base of the run has moved, say export.base=<folder>") from error


def base_identity(run: TrainedRun, request: Request) -> dict[str, Any]:
    """What both layouts depend on beside the checkpoint."""
    return {"base": base_of(run, request).identity()}


def write_adapter(run: TrainedRun, folder: Path, request: Request) -> dict[str, Any]:
    """`video_chatgpt.bin` with the three published tensors, float32."""
    base = base_of(run, request)
    tensors = published_state(run.state, embedding=base.read(EMBEDDING))
    path = folder / PUBLISHED_FILE
    torch.save(tensors, path)
    again = open_tensors(path)
    refuse_difference(path, found=again, wanted=tensors, read_back=again.__getitem__, read=tensors.__getitem__)
    return {"tensors": len(tensors), "bytes": sum(value.nbytes for value in tensors.values())}


def write_merged(run: TrainedRun, folder: Path, request: Request) -> dict[str, Any]:
    """The language model with a vocabulary greater by three, the projector beside it, low-rank adapters added in.

    New rows of the head are the mean of the others: the logit of a mean row is the mean of all logits, so greedy
    decoding never chooses a new token; sampling is kept from it by `suppress_tokens`. A head that was tied to the
    embedding becomes one of its own, because the new rows of the two differ. Everything has the dtype of the base.
    """
    base = base_of(run, request)
    tied = bool(read_config(base.folder).get("tie_word_embeddings", False))
    if not tied and HEAD not in base.headers:
        raise WeightsError(
            f"{base.folder}: no {HEAD}, and config.json does not tie it to the embedding; fetch it again"
        )
    language_model = _language_model(run, base)
    headers = _headers(run.state, base)
    rows = base.headers[EMBEDDING].shape[0]

    def read(name: str) -> Tensor:
        if name in PROJECTOR:
            return run.state[PROJECTOR[name]].to(headers[name].dtype)
        if name == EMBEDDING:
            return enlarged(language_model(name), run.state["model.boundary"])
        if name == HEAD:
            head = language_model(EMBEDDING if tied else HEAD)
            return enlarged(head, head.float().mean(dim=0).expand(2, -1))
        return language_model(name)

    size = write_weights(folder, headers=headers, read=read, max_shard_bytes=request.max_shard_bytes)
    changes = {
        "vocab_size": rows + len(NEW_TOKENS),
        "tie_word_embeddings": False,
        "use_mm_proj": True,
        "mm_hidden_size": run.state["model.projector.weight"].shape[1],
        "mm_use_vid_start_end": True,
    }
    copy_llama_files(base.folder, folder, as_llama=True, changes=changes)
    _write_vocabulary(base.folder, folder, first=rows)
    return {"tensors": len(headers), "bytes": size}


def _language_model(run: TrainedRun, base: Weights) -> Callable[[str], Tensor]:
    """A function that gives a tensor of the trained language model by its name in the base, in the dtype of the base.

    Raises:
        WeightsError: something was trained that has no place in the base.
    """
    state = {
        name.removeprefix(LANGUAGE_MODEL): run.state[name] for name in run.state if name.startswith(LANGUAGE_MODEL)
    }
    adapter = run.config["model"].get("adapter")
    return with_training(
        base.read, headers=base.headers, state=state, scale=lambda _: lora_scale(adapter), source=str(base.folder)
    )


def _headers(state: Mapping[str, Tensor], base: Weights) -> dict[str, Header]:
    rows, width = base.headers[EMBEDDING].shape
    dtype = base.headers[EMBEDDING].dtype
    headers = {name: header for name, header in base.headers.items() if not name.endswith(COMPUTED)}
    head = base.headers.get(HEAD, base.headers[EMBEDDING])
    for name, header in ((EMBEDDING, base.headers[EMBEDDING]), (HEAD, head)):
        headers[name] = Header((rows + len(NEW_TOKENS), width), header.dtype)
    return headers | {name: Header(tuple(state[own].shape), dtype) for name, own in PROJECTOR.items()}


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


ADAPTER_CARD = Card(
    form=f"`{PUBLISHED_FILE}` holds the projector and the enlarged input embedding of Video-ChatGPT (arXiv:2306.05424) "
    "in the three float32 tensors of the published file. The language model is not in it.",
    usage=f"""\
In the published code, as its `--projection_path`. In Framelab, beside the same base, with the ids that
`<vid_start>` and `<vid_end>` have in its vocabulary:

```sh
python -m launchers.prepare task=import_adapter task.adapter={PUBLISHED_FILE}
```""",
    task="video-text-to-text",
    tags=("video-chatgpt",),
)
MERGED_CARD = Card(
    form="The whole language model as transformers reads it, its vocabulary greater by `<vid_patch>`, `<vid_start>` "
    "and `<vid_end>`, and the projector of Video-ChatGPT (arXiv:2306.05424) as `model.mm_projector.*`, which "
    "transformers leaves unread.",
    usage="""\
The language model alone:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
```

A video is the projected features (`mm_projector`) in place of the `<vid_patch>` rows between `<vid_start>` and
`<vid_end>`, given as `inputs_embeds`.""",
    library="transformers",
    task="text-generation",
    tags=("video-chatgpt", "llama"),
)
LAYOUTS = {
    "adapter": Layout(write=write_adapter, card=ADAPTER_CARD, reads=base_identity),
    "merged": Layout(write=write_merged, card=MERGED_CARD, reads=base_identity),
}
