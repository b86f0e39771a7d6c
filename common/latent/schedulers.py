"""Schedulers of diffusers: the one that a model was trained with, and samplers of the same noise by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, SchedulerMixin

from common.config import suggest
from common.weights.source import WeightsError, weights_folder

FILE = "scheduler/scheduler_config.json"


def training_scheduler(
    *, weights: str, architecture: Mapping[str, Any] | None = None, config: Mapping[str, Any] | None = None
) -> DDPMScheduler:
    """The noise that a model learns to take away.

    Args:
        weights: folder or fetched Hub id of the pipeline whose scheduler is meant, or "random" for `architecture`.
        architecture: arguments of DDPMScheduler; only for "random".
        config: arguments that replace those of the file or the architecture, such as `prediction_type`; None
            replaces nothing.

    Raises:
        WeightsError: the pipeline has no scheduler.
    """
    base: dict[str, Any] = dict(architecture or {})
    if weights != "random":
        path = weights_folder(weights) / Path(FILE)
        if not path.is_file():
            raise WeightsError(f"{path} is not there; give the folder of a pipeline, or weights=random with a config")
        base = json.loads(path.read_text())
    replaced = {name: value for name, value in (config or {}).items() if value is not None}
    with torch.device("cpu"):  # tables of numbers, which stay so where a model is built without storage
        return DDPMScheduler.from_config({**base, **replaced})


def sampler(name: str, trained: DDPMScheduler) -> SchedulerMixin:
    """A scheduler to sample with, of the noise that was trained with.

    Args:
        name: of a class of diffusers, such as DDIMScheduler.
        trained: what the model was trained with.

    Raises:
        ValueError: diffusers has no such scheduler.
    """
    known = [each for each in dir(diffusers) if each.endswith("Scheduler")]
    if name not in known:
        raise ValueError(f"model.sampling.scheduler={name}: {suggest(name, known)}")
    with torch.device("cpu"):
        return getattr(diffusers, name).from_config(trained.config)
