"""Published weights of the plans with context: a folder with a whole UNet and its conditioner, read by name and shape.

The folder holds diffusion_pytorch_model.safetensors beside a config.json, as `save_pretrained` writes a UNet: layers of
Stable Diffusion under their names in diffusers, paths for context with "extra" in theirs, and `conditioner.*`. Shapes
do not tell heads from their width, so `model.kind.heads` and `dim_head` are to be set as in the published run.
"""

import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common.weights.source import WeightsError, weights_folder
from projects.text_to_video.conditioner import Conditioner
from projects.text_to_video.inject import is_new

FILE = "diffusion_pytorch_model.safetensors"
FROZEN, PATHS, CONDITIONER = "frozen UNet", "paths for context", "conditioner"

# Names that differ, ours as a pattern and the published ones, applied from first to last; all others are the same.
NAMES: dict[str, str] = {
    # Paths inside the blocks.
    r"\.adapter_extra\.down\.": ".adapter_ffn_extra.D_fc1.",
    r"\.adapter_extra\.up\.": ".adapter_ffn_extra.D_fc2.",
    # Copies of transformers, which are numbered from 1.
    r"\.transformer\.": ".",
    r"^mid_block\.attentions\.0\.copy_extra\.": "mid_block.extra_attn.",
    r"\.attentions\.0\.copy_extra\.": ".extra_attn_1.",
    r"\.attentions\.1\.copy_extra\.": ".extra_attn_2.",
    r"\.attentions\.2\.copy_extra\.": ".extra_attn_3.",
    # The conditioner.
    r"^conditioner\.patches\.": "conditioner.patch_embedding.proj.",
    r"^conditioner\.queries$": "conditioner.latents",
    r"^conditioner\.frame_position$": "conditioner.frame_pos_emb",
    r"^conditioner\.time\.": "conditioner.context_time_emb.",
    r"^conditioner\.target\.": "conditioner.frame_emb.",
    r"^conditioner\.layers\.(\d+)\.attention\.": r"conditioner.layers.\1.0.",
    r"^conditioner\.layers\.(\d+)\.feed_forward\.": r"conditioner.layers.\1.1.",
}
# Names of the older, frame-by-frame states, where they differ from the published ones above.
OLDER: dict[str, str] = {"conditioner.frame_pos_emb": "conditioner.media_pos_emb"}

log = logging.getLogger(__name__)


class Part(NamedTuple):
    """What a folder holds of a part of the model.

    Attributes:
        matched: parameters that were read, by our names.
        missing: those that the folder lacks.
        shapes: those of another shape, with both shapes.
    """

    matched: list[str]
    missing: list[str]
    shapes: list[str]


class Report(NamedTuple):
    """What was read.

    Attributes:
        parts: by the name of the part.
        unknown: names in the folder that belong to nothing here.
    """

    parts: dict[str, Part]
    unknown: list[str]

    def __str__(self) -> str:
        lines = []
        for name, part in self.parts.items():
            lines.append(f"{name}: {len(part.matched)} of {sum(map(len, part))} parameters read")
            lines += [f"  missing: {each}" for each in part.missing]
            lines += [f"  other shape: {each}" for each in part.shapes]
        return "\n".join([*lines, *(f"not used: {name}" for name in self.unknown)])


def published_name(name: str) -> str:
    """The published name of one of our parameters, "conditioner.*" or as the UNet names it."""
    for ours, theirs in NAMES.items():
        name = re.sub(ours, theirs, name)
    return name


def load_published(folder: str, *, unet: UNet2DConditionModel, conditioner: Conditioner) -> Report:
    """Reads what fits into the UNet and its conditioner; what was read and what was not is logged.

    Args:
        folder: of the published state, or id of a fetched Hub repository.
        unet: with paths for context.
        conditioner: of the published architecture.

    Returns:
        What matched.

    Raises:
        WeightsError: files that are not there or broken, or a part of which nothing fits.
    """
    path = weights_folder(folder)
    if not (path / FILE).is_file():
        raise WeightsError(f"{path / FILE} is not there; model.kind.published wants the folder of a whole UNet")
    whole: Any = unet
    ours = {name: each for name, each in whole.named_parameters()}
    ours |= {f"conditioner.{name}": each for name, each in conditioner.named_parameters()}
    try:
        report = _copy(path / FILE, ours)
    except SafetensorError as error:
        raise WeightsError(f"{path / FILE}: {error}; copy it again") from error
    log.info("%s\n%s", path, report)
    for part, found in report.parts.items():
        if not found.matched:
            seen = ", ".join([*found.shapes, *found.missing][:3])
            raise WeightsError(f"nothing in {path / FILE} fits the {part} ({seen}, ...); is it the same architecture?")
    return report


def _copy(file: Path, ours: dict[str, nn.Parameter]) -> Report:
    parts = {name: Part([], [], []) for name in (FROZEN, PATHS, CONDITIONER)}
    with safe_open(str(file), framework="pt") as stored, torch.no_grad():
        left = set(stored.keys())
        for name, parameter in ours.items():
            part, theirs = parts[part_of(name)], published_name(name)
            theirs = theirs if theirs in left else OLDER.get(theirs, theirs)
            if theirs not in left:
                part.missing.append(name)
                continue
            left.remove(theirs)
            value: Tensor = stored.get_tensor(theirs)
            if value.shape == parameter.shape:
                parameter.copy_(value)
                part.matched.append(name)
            else:
                part.shapes.append(f"{name} {tuple(value.shape)} instead of {tuple(parameter.shape)}")
    return Report(parts=parts, unknown=sorted(left))


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to."""
    if name.startswith("conditioner."):
        return CONDITIONER
    return PATHS if is_new(name) else FROZEN
