"""What a trained run looks like to others: a folder for transformers, and an adapter for peft."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.card import Card, portable
from common.export import Layout, Request, TrainedRun
from common.lora import adapted_weights
from common.weights.names import empty_model, names_in_files
from common.weights.peft_files import write_peft
from common.weights.source import Header, Weights, WeightsError
from common.weights.trained import lora_scale, whole_names, with_training
from common.weights.verified import write_weights
from projects.llava_video.base import Base, base_identity, base_of, family_of, state_of
from projects.llava_video.families import Family, part_of
from projects.llava_video.processors import Shown, kind_of, shown_by, write_processor

EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
WHOLE = ("multi_modal_projector", "vision_tower")  # modules that peft may hold whole beside adapters


def write_merged(run: TrainedRun, folder: Path, request: Request) -> dict[str, Any]:
    """The whole model as `from_pretrained` reads it: one tensor is in memory at a time, where the base has files.

    The placeholder of a frame may lie behind the last row of the embedding, because the run never looks it up;
    transformers does, so the vocabulary grows up to it. A new row is the mean of the others: the logit of a mean row
    is the mean of all logits, so it is never the greatest. Adapters that were trained on a base in four bits are added
    to the base as it is in its files.
    """
    family = family_of(run)
    base = base_of(run, request, family)
    shown = shown_by(run, base, family)
    wanted = None if request.dtype is None else getattr(torch, request.dtype)
    old = {name: Header(header.shape, wanted or header.dtype) for name, header in base.headers.items()}
    rows = max(old[EMBEDDING].shape[0], shown.patch_id + 1)
    new = {name: Header((rows, *old[name].shape[1:]), old[name].dtype) for name in (EMBEDDING, HEAD) if name in old}
    headers = old | new
    trained = with_training(
        base.read, headers=old, state=state_of(run), scale=_scales(run.config), source=str(base.name)
    )
    own = {file: name for name, file in base.names.items()}
    size = write_weights(
        folder,
        headers={base.names[name]: header for name, header in headers.items()},
        read=lambda file: _with_rows(trained(own[file]), headers[own[file]].shape[0]),
        max_shard_bytes=request.max_shard_bytes,
    )
    _write_config(folder, base, shown, rows=rows, dtype=request.dtype)
    write_processor(folder, shown=shown, base=base)
    _compare_names(folder, family)
    return {"tensors": len(headers), "bytes": size}


def _with_rows(value: Tensor, rows: int) -> Tensor:
    """With mean rows up to a number of rows."""
    if value.ndim != 2 or len(value) >= rows:
        return value
    mean = value.float().mean(dim=0).to(value.dtype)
    return torch.cat([value, mean.expand(rows - len(value), -1)])


def _scales(config: Mapping[str, Any]) -> Any:
    """A function that gives the scale of a layer's adapter, by the name of its weight."""
    adapters = config["model"]["adapters"]
    return lambda weight: lora_scale(adapters[part_of(weight)])


def _write_config(folder: Path, base: Base, shown: Shown, *, rows: int, dtype: str | None) -> None:
    content = json.loads(json.dumps(base.config_json))
    text: Any = base.config.text_config
    if text.vocab_size != rows:
        content["text_config"]["vocab_size"] = rows
    index = kind_of(shown.family).index
    if getattr(base.config, index) != shown.patch_id:
        content[index] = shown.patch_id
    for part in (content, *(content[name] for name in ("text_config", "vision_config") if dtype is not None)):
        if dtype is not None and ("dtype" in part or "torch_dtype" in part or part is content):
            part.pop("torch_dtype", None)
            part["dtype"] = dtype
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _compare_names(folder: Path, family: Family) -> None:
    """Every tensor of the folder has its place in the model that transformers makes of it, and no place is empty."""
    config_class: Any = family.model_class.config_class
    model = empty_model(family.model_class, config_class.from_pretrained(folder))
    written = Weights(folder)
    names = names_in_files(model, written.headers, source=str(folder))
    assert len(names) == len(written.headers), sorted(set(written.headers) - set(names.values()))


def write_adapter(run: TrainedRun, folder: Path, request: Request) -> dict[str, Any]:
    """The low-rank adapters as peft reads them; a projector or a vision tower that learned whole goes in beside them.

    Raises:
        WeightsError: the run has no adapters, something learned that peft has no place for, or the base has no files.
    """
    family = family_of(run)
    base = base_of(run, request, family)
    if base.name is None:
        raise WeightsError(
            "the run has model.model.weights=random, and no files of it for an adapter to stand on; take "
            "export.layout=merged"
        )
    state = state_of(run)
    adapters = adapted_weights(state)
    if not adapters:
        raise WeightsError("the run has no adapters (model.adapters.*); take export.layout=merged")
    shown = shown_by(run, base, family)
    if shown.patch_id >= base.headers[EMBEDDING].shape[0]:
        raise WeightsError(
            f"{base.name} has no row for {family.patch}, an adapter adds none; take export.layout=merged"
        )
    whole = _whole_modules(state)
    # What does not fit the base is refused here, and nothing else is wanted of it.
    with_training(base.read, headers=base.headers, state=state, scale=_scales(run.config), source=base.name)
    recipes = run.config["model"]["adapters"]
    figures = write_peft(
        folder,
        state={**_filled(whole, base), **state},
        alphas={weight: float(recipes[part_of(weight)]["alpha"]) for weight in adapters},
        whole=whole,
        base=portable(base.name),
    )
    write_processor(folder, shown=shown, base=base)
    return figures


def _whole_modules(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the modules that learned whole.

    Raises:
        WeightsError: one that peft cannot put beside adapters.
    """
    found = set()
    for name in whole_names(state):
        module = next((each for each in WHOLE if name.startswith(f"model.{each}.")), None)
        if module is None:
            raise WeightsError(
                f"{name} learned whole, and peft has no place for it beside adapters; take export.layout=merged"
            )
        found.add(module)
    return sorted(found)


def _filled(whole: list[str], base: Base) -> dict[str, Tensor]:
    """Tensors of these modules before training: those that did not learn belong to the module all the same."""
    return {name: base.read(name) for name in base.headers for module in whole if name.startswith(f"model.{module}.")}


USAGE = """\
```python
from transformers import AutoModelForImageTextToText, AutoProcessor

{load}
frames = [...]  # PIL images of one clip: which and how many, says `plan` below
messages = [{{"role": "user", "content": [*({{"type": "image"}} for _ in frames), {{"type": "text", "text": "..."}}]}}]
text = processor.apply_chat_template(messages, add_generation_prompt=True)
inputs = processor(images=frames, text=text, return_tensors="pt").to(model.device, model.dtype)
answer = model.generate(**inputs, eos_token_id=processor.tokenizer.eos_token_id, max_new_tokens=256)
print(processor.decode(answer[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))
```

Where `config.yaml` says LlavaOnevision, the clip is one part, `{{"type": "video"}}`, and `videos=[frames]`."""
MERGED_CARD = Card(
    form="The whole model as transformers reads it, with what was trained in its place and low-rank adapters added in "
    "(in float32, then rounded once). The processor squashes each frame as training did.",
    usage=USAGE.format(
        load='processor = AutoProcessor.from_pretrained(".")\n'
        'model = AutoModelForImageTextToText.from_pretrained(".", device_map="auto")'
    ),
    library="transformers",
    task="video-text-to-text",
    tags=("llava", "video"),
)
ADAPTER_CARD = Card(
    form="Low-rank adapters (arXiv:2106.09685) as peft reads them, and the modules that learned whole beside them. The "
    "base model is not in it.",
    usage=USAGE.format(
        load='from peft import PeftModel\n\nprocessor = AutoProcessor.from_pretrained(".")\n'
        'base = AutoModelForImageTextToText.from_pretrained("<the base model>", device_map="auto")\n'
        'model = PeftModel.from_pretrained(base, ".")'
    ),
    library="peft",
    task="video-text-to-text",
    tags=("llava", "video", "lora"),
)
LAYOUTS = {
    "merged": Layout(write=write_merged, card=MERGED_CARD, reads=base_identity, dtypes=True),
    "adapter": Layout(write=write_adapter, card=ADAPTER_CARD, reads=base_identity),
}
