"""What a trained run looks like to others: a pipeline of diffusers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import UNetMotionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.card import Card
from common.checkpoint import load_trained
from common.config import build
from common.export import Layout, Request, TrainedRun
from common.files import digest
from common.latent.unet import FILE, unet_folder
from common.pipeline_folder import (
    frozen_identity,
    frozen_parts,
    model_config,
    tokenizer_of,
    trained_part,
    write_folder,
)
from common.weights.source import WeightsError
from common.weights.verified import refuse_difference
from projects.text_to_video.pipeline_text_to_video import CONTEXT, TextToVideoPipeline

KIND = "kind."  # before the names of all that trains, in the module
ELSEWHERE = ("unet", "published", "_partial_")  # arguments of a kind that the folder holds in another form


def write_pipeline(run: TrainedRun, folder: Path, request: Request) -> dict[str, Any]:
    """All parts as `from_pretrained` reads them: what was trained, and the others from the base.

    A UNet with temporal layers is written whole. A frozen one is written as it is in the base, and beside it
    `context.safetensors` with what was trained.
    """
    codec, text, scheduler = frozen_parts(run, request)
    recipe, trained = model_config(run)["kind"], _trained(run)
    plain = _base(recipe, request)
    kind = build({**recipe, "unet": None, **_unpublished(recipe)})(unet=lambda: plain)
    load_trained(kind, trained, source=str(run.checkpoint))
    whole = isinstance(kind.unet, UNetMotionModel)
    pipeline = TextToVideoPipeline(
        vae=codec.vae,
        text_encoder=text.tower,
        tokenizer=tokenizer_of(text),
        unet=(kind.unet if whole else _base(recipe, request)).eval(),
        scheduler=scheduler,
        kind={name: value for name, value in recipe.items() if name not in ELSEWHERE},
    )
    figures: dict[str, Any] = write_folder(pipeline, folder, request)
    return figures if whole else {**figures, "context": _write_context(trained, folder / CONTEXT)}


def _write_context(trained: Mapping[str, Tensor], path: Path) -> int:
    """Writes the trained tensors as they are, in float32 whatever the frozen parts are in; returns their number."""
    tensors = {name: value.contiguous() for name, value in trained.items()}
    save_file(tensors, path)
    again = load_file(path)
    refuse_difference(path, found=again, wanted=tensors, read_back=again.__getitem__, read=tensors.__getitem__)
    return sum(value.numel() for value in tensors.values())


def identity(run: TrainedRun, request: Request) -> dict[str, Any]:
    """What a pipeline depends on beside the checkpoint."""
    weights = _weights(model_config(run)["kind"]["unet"], request)
    files = [] if weights == "random" else sorted(unet_folder(weights).glob(f"{FILE}*"))
    return {**frozen_identity(run, request), "unet": {path.name: digest(path) for path in files}}


def _trained(run: TrainedRun) -> dict[str, Tensor]:
    if found := trained_part(run, KIND, all_prefixes=(KIND,)):
        return found
    raise WeightsError(f"{run.checkpoint} has no tensor of this method; they begin with {KIND}")


def _base(recipe: Mapping[str, Any], request: Request) -> Any:
    """The text-to-image UNet that the run started from."""
    plain = {"checkpointing": False, "channels_last": False, "compile": False}
    return build(recipe["unet"])(**plain, weights=_weights(recipe["unet"], request))


def _weights(recipe: Mapping[str, Any], request: Request) -> str:
    weights = str(recipe["weights"])
    return weights if weights == "random" else request.base or weights


def _unpublished(recipe: Mapping[str, Any]) -> dict[str, None]:
    """A published state to begin with was read by the run; what it became is in the checkpoint."""
    return {"published": None} if "published" in recipe else {}


CARD = Card(
    form="A pipeline of diffusers: the UNet, and the VAE, the text encoder, the tokenizer and the scheduler that "
    "belong to it. A UNet with temporal layers is in `unet/` as it was trained; a text-to-image one is there as it was "
    "before, and `context.safetensors` holds what was trained beside it. `kind` in `model_index.json` says how clips "
    "are made. Whether the weights are averaged or raw says `weights` in `made.json`.",
    usage="""\
```python
from projects.text_to_video.pipeline_text_to_video import TextToVideoPipeline

pipeline = TextToVideoPipeline.from_pretrained(".")
[frames] = pipeline("a red circle moves left", num_frames=16, guidance_scale=2.0).frames
frames[0].save("clip.gif", save_all=True, append_images=frames[1:], duration=62, loop=0)
```

The class is part of Framelab: run this in a checkout of it. In a checkout plain diffusers loads the folder as well, by
`DiffusionPipeline.from_pretrained(".", custom_pipeline="<checkout>/projects/text_to_video/pipeline_text_to_video.py",
trust_remote_code=True)`. The number of frames and the guidance scales of the run's own samples are in `config.yaml`
under `data` and `model.sampling`. There is no safety checker.""",
    library="diffusers",
    task="text-to-video",
    tags=("text-to-video",),
)
LAYOUTS = {"diffusers": Layout(write=write_pipeline, card=CARD, reads=identity, dtypes=True)}
