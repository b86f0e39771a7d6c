"""What a trained run looks like to others: a CLIP as transformers reads it, and the files of the published code."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.card import Card
from common.checkpoint import load_file as load_checkpoint
from common.config import bind
from common.encoders.tower import ContrastiveTower
from common.export import Layout, Request, TrainedRun
from common.files import digest
from common.pipeline_folder import compare_part
from common.weights.source import Weights, WeightsError, weights_folder
from projects.genhancer.files import SUFFIXES, flat_optimizer, write_tensors
from projects.genhancer.flux_names import published_names
from projects.genhancer.merged import RECONSTRUCTOR, TOWER, base_tower, merged_tower, second_stage
from projects.genhancer.stages import find_stage1

DENOISER = "denoiser.flux."
TO_VECTOR, TO_CONTEXT = "heads.to_vector.", ("heads.to_context.", "adapter.layers.")
# Beside the weights of a base: what its pictures and texts go through.
BESIDE = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
)


def write_clip(run: TrainedRun, folder: Path, request: Request, *, kind: str) -> dict[str, Any]:
    """The whole model as `from_pretrained` reads it, with its preprocessor and tokenizer.

    Args:
        run: of a second stage.
        folder: that is there.
        request: as the user gave it.
        kind: "safetensors" or "bin".
    """
    model = _model(run)
    if not second_stage(model):
        raise WeightsError("the first stage leaves CLIP as it is; take export.layout=published, or a second stage")
    tower, changed = merged_tower(run, model, request)
    _write_tower(tower, folder, request, kind=kind, base=_base(model, request))
    return {"changed": len(changed), "parameters": sum(each.numel() for each in tower.model.parameters())}


def _write_tower(tower: ContrastiveTower, folder: Path, request: Request, *, kind: str, base: Path | None) -> None:
    if request.dtype is not None:
        tower.model.to(getattr(torch, request.dtype))
    tower.model.save_pretrained(folder, max_shard_size=request.max_shard_bytes)
    compare_part(folder, tower.model)
    if kind == "bin":
        _as_bin(folder)
    for name in BESIDE:
        if base is not None and (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    _complete(tower, folder)


def _as_bin(folder: Path) -> None:
    """One `pytorch_model.bin` in place of the safetensors files, with the names that these have."""
    weights = Weights(folder)
    write_tensors(folder / "pytorch_model", {name: weights.read(name).clone() for name in weights.headers}, kind="bin")
    for path in folder.glob("model*.safetensors*"):
        path.unlink()


def _complete(tower: ContrastiveTower, folder: Path) -> None:
    """Sees to a tokenizer and a preprocessor where the base has none in its folder."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "spiece.model")):
        if tower.tokenizer is None:
            raise WeightsError("the base has no tokenizer, and no text could be read; set model.tower.tokenizer")
        tower.tokenizer.save_pretrained(folder)
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        from transformers import CLIPImageProcessor, SiglipImageProcessor

        kinds: dict[str, Any] = {"clip": CLIPImageProcessor, "siglip": SiglipImageProcessor}
        square = {"height": tower.image_size, "width": tower.image_size}
        sizes = {"size": square}
        if tower.family == "clip":
            sizes = {"size": {"shortest_edge": tower.image_size}, "crop_size": square}
        kinds[tower.family](**sizes, image_mean=list(tower.mean), image_std=list(tower.std)).save_pretrained(folder)


def write_published(run: TrainedRun, folder: Path, request: Request, *, kind: str) -> dict[str, Any]:
    """The files of the published code, by its names: `checkpoint-dit-N`, `checkpoint-project-clip-N` and so on.

    N is the number of optimizer steps. The denoiser is in the names of FLUX's own code. What makes the context of what
    CLIP sees is `checkpoint-visual-adapter-N`, also where it reads class tokens.
    """
    model, step = _model(run), run.manifest.step
    state = _reconstructor(run, model)
    parts: dict[str, Mapping[str, Tensor]] = {
        "dit": published_names(_below(state, DENOISER)),
        "project-clip": _below(state, TO_VECTOR),
        "visual-adapter": {name: value for prefix in TO_CONTEXT for name, value in _below(state, prefix).items()},
    }
    figures = {}
    for name, tensors in parts.items():
        figures[name] = write_tensors(folder / f"checkpoint-{name}-{step}", tensors, kind=kind)
    optimizer = load_checkpoint(run.checkpoint).get("optimizer_states", [])
    if optimizer:
        tensors, rest = flat_optimizer(optimizer[0])
        figures["optimizer"] = write_tensors(folder / f"optimizer-state-{step}", tensors, kind=kind, metadata=rest)
    if second_stage(model):
        tower, _ = merged_tower(run, model, request)
        base = _base(model, request)
        target = folder / f"{'clip' if base is None else base_name(model, request)}-{step}"
        target.mkdir()
        _write_tower(tower, target, request, kind=kind, base=base)
    return figures


def _reconstructor(run: TrainedRun, model: Mapping[str, Any]) -> dict[str, Tensor]:
    """Projectors and denoiser; where the second stage trained the tower alone, those of the first."""
    found = _below(run.state, RECONSTRUCTOR)
    if not found:
        found = _below(load_checkpoint(_stage1(model))["state_dict"], RECONSTRUCTOR)
    return found


def _stage1(model: Mapping[str, Any]) -> Path:
    return find_stage1(model["stage1"], model["load_step"])


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def base_name(model: Mapping[str, Any], request: Request) -> str:
    """The last part of what the base is called, such as clip-vit-large-patch14-336."""
    return Path(request.base or model["tower"]["weights"]).name


def _base(model: Mapping[str, Any], request: Request) -> Path | None:
    """Folder of the base; None where its weights are random."""
    weights = model["tower"]["weights"]
    return None if weights == "random" else weights_folder(request.base or weights)


def _model(run: TrainedRun) -> dict[str, Any]:
    """The configuration of the model; what it names is checked, because it comes from a file."""
    model: dict[str, Any] = run.config["model"]
    bind(model, "model")
    foreign = [name for name in run.state if not name.startswith((RECONSTRUCTOR, TOWER))]
    if foreign:
        raise WeightsError(f"{run.checkpoint} has {foreign[0]}; tensors of this method begin with {RECONSTRUCTOR}")
    return model


def _reads(run: TrainedRun, request: Request) -> dict[str, Any]:
    """What an export depends on beside the checkpoint."""
    model = _model(run)
    identity: dict[str, Any] = {}
    if second_stage(model):
        identity["tower"] = base_tower(model, request).identity
    if not _below(run.state, RECONSTRUCTOR):
        identity["stage1"] = digest(_stage1(model))
    return identity


CLIP_CARD = Card(
    form="A CLIP or SigLIP with both towers, as transformers reads it, with its preprocessor and tokenizer. Adapters "
    "of the vision tower were added in, in float32; the text tower is that of the base, bit by bit.",
    usage="""\
```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained(".")
processor = AutoProcessor.from_pretrained(".")
```

A vision tower that was tuned like this sees details better and names classes worse than its base: measure both before
you put it in the place of the base.""",
    library="transformers",
    task="zero-shot-image-classification",
    tags=("clip", "genhancer"),
)
PUBLISHED_CARD = Card(
    form="The files of the published code, by its names: the denoiser (`checkpoint-dit-N`, in the names of FLUX's own "
    "code), the projector of the modulation (`checkpoint-project-clip-N`), what makes the context of what CLIP sees "
    "(`checkpoint-visual-adapter-N`), the optimizer (`optimizer-state-N`), and of a second stage the CLIP in a folder "
    "of its own. N is the number of steps.",
    usage="""\
```python
from safetensors.torch import load_file

denoiser = load_file("checkpoint-dit-N.safetensors")
```""",
    tags=("clip", "genhancer"),
)


def _layouts(name: str, card: Card, write: Callable[..., Mapping[str, Any]]) -> dict[str, Layout]:
    """The layout with safetensors files, and the one with `.bin` files."""
    return {
        name if kind == SUFFIXES[0] else f"{name}_{kind}": Layout(
            write=partial(write, kind=kind), card=card, reads=_reads, dtypes=True
        )
        for kind in SUFFIXES
    }


LAYOUTS = _layouts("clip", CLIP_CARD, write_clip) | _layouts("published", PUBLISHED_CARD, write_published)
