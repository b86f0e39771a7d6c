"""A trained base model on disk: a folder of transformers or diffusers, how it was made, and what it scored."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import ModelMixin
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from common.files import atomic_folder

RECORD = "training.json"


def finished(folder: Path, settings: Mapping[str, Any]) -> dict[str, float] | None:
    """Scores of the model in `folder` if it was made with these settings, None if there is no model.

    Raises:
        ValueError: it was made with other settings, or is no such folder.
    """
    if not folder.exists():
        return None
    if not (folder / RECORD).is_file():
        raise ValueError(f"{folder} exists but holds no {RECORD}; remove it or set task.folder to another path")
    record = json.loads((folder / RECORD).read_text())
    found = record["settings"]
    differing = sorted(key for key in settings.keys() | found.keys() if settings.get(key) != found.get(key))
    if differing:
        told = ", ".join(f"{key}={found.get(key)} (asked: {settings.get(key)})" for key in differing)
        raise ValueError(f"{folder} was made with {told}; remove it or set task.folder to another path")
    return dict(record["scores"])


def save(
    folder: Path,
    model: PreTrainedModel | ModelMixin,
    tokenizer: PreTrainedTokenizerFast | None,
    *,
    settings: Mapping[str, Any],
    scores: Mapping[str, float],
    title: str,
    task: str,
    preprocessor: Mapping[str, Any] | None = None,
) -> None:
    """Writes the folder, whole or not at all; weights in float16.

    Args:
        folder: must not exist.
        model: becomes float16.
        tokenizer: saved beside it, where there are texts.
        settings: arguments of the training.
        scores: what it reached.
        title: of its README.
        task: preparation task that makes it.
        preprocessor: content of preprocessor_config.json, where there are pictures.
    """
    with atomic_folder(folder) as temporary:
        model.half().save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        if preprocessor is not None:
            (temporary / "preprocessor_config.json").write_text(json.dumps(dict(preprocessor), indent=1) + "\n")
        record = {"settings": dict(settings), "scores": dict(scores)}
        (temporary / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        told = ", ".join(f"{name} {value:g}" for name, value in scores.items())
        parameters = sum(parameter.numel() for parameter in model.parameters())
        (temporary / "README.md").write_text(
            f"# {title}\n\n"
            f"{parameters:,} parameters, float16, trained from nothing on what `common/shapes_world` draws.\n"
            f"Made again (same seed, same machine: same weights) by `python -m launchers.prepare task={task} "
            f"task.folder=<new folder>`.\nMeasured: {told}.\n"
        )
