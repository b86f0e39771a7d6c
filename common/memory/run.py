"""The memory of a composed run."""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from common.config import ConfigError, build
from common.memory.devices import Need, Strategy, need
from common.memory.recipe import unloaded, uses
from common.memory.trace import Machine, Trace, Weights, trace


class MemoryRun:
    """What a composed run would need, and what it would need on other devices.

    The step is traced, in seconds, when its figures are asked for; see `common.memory.trace`.
    """

    def __init__(self, tree: Mapping[str, Any]) -> None:
        """
        Args:
            tree: plain containers with `model`, `data`, `hw`, `trainer`, `micro` (rows of a micro-batch), `global`
                (rows of an optimizer step) and `average` (whether a moving average of the weights is kept).
        """
        self.tree, self.trainer = tree, tree["trainer"]
        self.gpu = tree["hw"] != "cpu"
        self.devices = int(self.trainer["devices"]) * int(self.trainer["num_nodes"])
        self.strategy = strategy_of(self.trainer["strategy"])
        self.packed = any(uses(tree["model"], "quantize"))

    @property
    def capacity(self) -> float | None:
        """Bytes of a device by the memory class of the machine, 24e9 for gpu24; None for a CPU.

        Raises:
            ConfigError: the class does not say it.
        """
        if not self.gpu:
            return None
        if not (found := re.fullmatch(r"gpu(\d+(?:\.\d+)?)", self.tree["hw"])):
            raise ConfigError(f"hw={self.tree['hw']}: cpu, or gpu and its gigabytes (1e9 bytes), such as gpu48")
        return float(found.group(1)) * 1e9

    def need(self, *, strategy: Strategy | None = None, devices: int | None = None, packed: bool | None = None) -> Need:
        """Of each device; what is not given is as the run has it."""
        count = devices or self.devices
        return need(
            self.traced,
            strategy=strategy or self.strategy,
            devices=count,
            gpu=self.gpu,
            accumulate=max(1, self.tree["global"] // (self.tree["micro"] * count)),
            packed=self.packed if packed is None else packed,
            average=self.tree["average"],
        )

    def traced(self, weights: Weights) -> Trace:
        """The step with weights in one form."""
        recipes = json.dumps([unloaded(self.tree["model"]), self.tree["data"]], sort_keys=True)
        return _traced(recipes, self.tree["micro"], Machine(str(self.trainer["precision"]), self.gpu), weights)


@functools.cache
def _traced(recipes: str, rows: int, machine: Machine, weights: Weights) -> Trace:
    """Runs that differ in nothing that is traced share one."""
    model, data = json.loads(recipes)
    return trace(functools.partial(build, model), build(data).synthetic_batch(rows), machine=machine, weights=weights)


def strategy_of(node: Any) -> Strategy:
    """How a trainer's strategy divides memory, by its name."""
    name = str(node.get("_target_") if isinstance(node, Mapping) else node).lower()
    if "zero" in name or "deepspeed" in name:
        return "zero2"
    return "fsdp" if "shard" in name or "fsdp" in name else "ddp"
