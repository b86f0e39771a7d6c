"""What is measured: the training step of a composed run, with random weights, on synthetic rows or its own."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer

from common.benchmark.peaks import peak
from common.benchmark.record import figures
from common.benchmark.synthetic import Synthetic, tokens_of
from common.benchmark.timer import StepTimer
from common.config import ConfigError, build
from common.memory.devices import CONTEXT
from common.memory.operations import model_operations, once
from common.memory.recipe import unloaded, uses
from common.memory.run import MemoryRun

DATA, WEIGHTS = ("synthetic", "real"), ("random", "own")

# Keys of the trainer that validation and logs need, which a benchmark has not.
QUIET = {"logger": False, "limit_val_batches": 0, "val_check_interval": 1.0, "check_val_every_n_epoch": 1}


class Subject:
    """One run that is measured."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        """
        Args:
            tree: the composed configuration, plain.

        Raises:
            ConfigError: settings that cannot be measured, with the remedy.
        """
        self.tree, self.asked = tree, tree["benchmark"]
        for key, known in (("data", DATA), ("weights", WEIGHTS)):
            if self.asked[key] not in known:
                raise ConfigError(f"benchmark.{key}={self.asked[key]}: one of {', '.join(known)}")
        if self.asked["steps"] < 1 or self.asked["warmup"] < 0:
            raise ConfigError("benchmark.steps must be 1 or more, and benchmark.warmup 0 or more")
        if self.asked["weights"] == "random" and any(uses(tree["model"], "quantize")):
            raise ConfigError("weights are packed into 4 bits as they are read: give benchmark.weights=own")
        self.timer = StepTimer(warmup=self.asked["warmup"])
        self.micro: int = tree["batch"]["micro"]

    def module(self) -> LightningModule:
        """The module, not yet built."""
        node = self.tree["model"]
        made: LightningModule = build(unloaded(node, off={}) if self.asked["weights"] == "random" else node)
        if self.asked["data"] == "synthetic":
            made.on_fit_start = _nothing  # type: ignore[method-assign]  # modules look at their rows there
        return made

    def trainer_keys(self) -> dict[str, Any]:
        """What the trainer of the run gets otherwise: an average of the weights is part of a step, all else is not."""
        average = [build(node) for name, node in self.tree["callbacks"].items() if name == "ema"]
        steps = self.asked["warmup"] + self.asked["steps"]
        return {**QUIET, "callbacks": [*average, self.timer], "max_steps": steps, "max_epochs": -1}

    def data(self, accumulate: int) -> LightningDataModule:
        """Rows of the run, or as many equal micro-batches of the usual shape as are wanted."""
        data: LightningDataModule = build(self.tree["data"])
        if self.asked["data"] == "real":
            return data
        count = accumulate * (self.asked["warmup"] + self.asked["steps"])
        sizes = {"global_batch": self.tree["batch"]["global"], "micro_batch": self.micro}
        loading = {key: self.tree["data"][key] for key in ("num_workers", "pin_memory")}
        return Synthetic(self._batch(), count=count, **sizes, **loading)

    def _batch(self) -> Any:
        return build(self.tree["data"]).synthetic_batch(self.micro)

    def figures(self, trainer: Trainer, estimate: MemoryRun) -> dict[str, float | None]:
        """What was found, when the trainer has ended."""
        batch, device = self._batch(), trainer.strategy.root_device
        tokens = tokens_of(batch)
        recipe = partial(build, once(unloaded(self.tree["model"])))
        return figures(
            self.timer.steps,
            rows=self.tree["batch"]["global"],
            tokens=None if tokens is None else tokens / self.micro,
            operations=model_operations(recipe, batch) // self.micro,
            devices=trainer.world_size,
            peak=peak(device_name(device), str(trainer.precision)),
            peak_bytes=self.timer.peak_bytes,
            estimated_bytes=estimate.need().total - (CONTEXT if estimate.gpu else 0),  # which no allocator sees
        )

    def what(self, trainer: Trainer, *, experiment: str, hardware: str) -> dict[str, Any]:
        """What was measured; of two records that differ in it, neither says anything about the other."""
        return {
            "experiment": experiment,
            "hardware": hardware,
            "device": device_name(trainer.strategy.root_device),
            "devices": trainer.world_size // trainer.num_nodes,
            "nodes": trainer.num_nodes,
            "precision": str(trainer.precision),
            "strategy": type(trainer.strategy).__name__,
            "micro": self.micro,
            "global": self.tree["batch"]["global"],
            "data": self.asked["data"],
            "weights": self.asked["weights"],
        }


def _nothing() -> None:
    """In place of a hook."""


def device_name(device: torch.device) -> str:
    """The name of a GPU, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
