"""An exponential moving average of what trains, beside the weights themselves."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from common.checkpoint import CheckpointError

SHADOW = "shadow"
CHOICES = ("auto", "averaged", "raw")


class Ema(Callback):
    """Averages the trained parameters after each optimizer step; validation sees the average.

    decay = min(`decay`, (1 + n) / (10 + n)) at step n, so that the start does not linger. The average is float32 and
    lies where the parameters lie, split as they are. A checkpoint holds both: the weights in its `state_dict`, the
    average here. This callback comes before the one that saves (conf/callbacks/ema.yaml), which therefore finds the
    average of the step and the weights themselves in the module.
    """

    def __init__(self, *, decay: float, every: int = 1) -> None:
        """
        Args:
            decay: of the average, 0 <= decay < 1.
            every: optimizer steps between updates; the decay is raised to this power.
        """
        if not 0 <= decay < 1 or every < 1:
            raise ValueError(f"callbacks.ema: decay={decay} must be in 0..1, every={every} at least 1")
        self.decay, self.every = decay, every
        self._names: list[str] = []
        self._live: list[Tensor] = []
        self._shadow: list[Tensor] = []
        self._kept: list[Tensor] = []  # the weights themselves, while the average is in their place
        self._restored: Mapping[str, Tensor] | None = None
        self._updated = 0  # the optimizer step of the last update
        self._writes = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and isinstance(trainer.strategy, DeepSpeedStrategy):
            raise ValueError(
                "callbacks=ema with DeepSpeed would average bfloat16 weights; take hardware with DDP or FSDP, or leave "
                "the average out: ~callbacks.ema"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins with the weights, or with the average of the checkpoint."""
        self._writes = trainer.is_global_zero
        trained = {name: each for name, each in pl_module.named_parameters() if each.requires_grad}
        self._names, self._live = list(trained), [each.detach() for each in trained.values()]
        self._updated = trainer.global_step
        if self._restored is None:
            self._shadow = [each.float().clone() for each in self._live]
            return
        if set(self._restored) != set(self._names):
            raise CheckpointError(f"{trainer.ckpt_path} averages other parameters than this configuration trains")
        self._shadow = [_like(self._restored[name], live) for name, live in zip(self._names, self._live, strict=True)]
        self._restored = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == self._updated or step % self.every:
            return
        self._updated = step
        decay = min(self.decay, (1 + step) / (10 + step)) ** self.every
        with torch.no_grad():
            live = [each.float() for each in self._live]
            torch._foreach_lerp_(self._shadow, live, 1 - decay)

    # Validation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._shadow:
            self._kept = [each.clone() for each in self._live]
            _copy(self._shadow, self._live)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.put_back()

    def put_back(self) -> None:
        """The weights themselves are in the module again; also for a validation that is broken off."""
        if self._kept:
            _copy(self._kept, self._live)
            self._kept = []

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The average as whole tensors, on rank 0; empty on the others. Called by every rank."""
        whole = {}
        for name, value in zip(self._names, self._shadow, strict=True):
            full = value.full_tensor() if isinstance(value, DTensor) else value
            if self._writes:  # the others only help to gather
                whole[name] = full.cpu() if isinstance(value, DTensor) else full
        return {SHADOW: whole}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict[SHADOW]


def weights_of(content: Mapping[str, Any], which: str, *, source: str) -> tuple[str, dict[str, Tensor]]:
    """What a checkpoint trained, by parameter name, and whether it is "averaged" or "raw".

    Args:
        content: of the checkpoint.
        which: "averaged", "raw", or "auto" for the average where the run kept one.
        source: name of the checkpoint, for messages.

    Raises:
        CheckpointError: the average is asked for and there is none, or `which` is none of these.
    """
    if which not in CHOICES:
        raise CheckpointError(f"weights={which}: one of {', '.join(CHOICES)}")
    state = content.get("callbacks", {}).get(Ema.__qualname__)
    if which == "averaged" and state is None:
        raise CheckpointError(f"{source} holds no average (its run had no callbacks=ema); take weights=raw")
    if state is None or which == "raw":
        return "raw", dict(content["state_dict"])
    return "averaged", dict(state[SHADOW])


@torch.no_grad()
def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    for value, place in zip(source, target, strict=True):
        place.copy_(value)


def _like(value: Tensor, live: Tensor) -> Tensor:
    """The part of a whole tensor that lies where `live` lies, in float32."""
    value = value.to(live.device, torch.float32)
    if isinstance(live, DTensor):
        return distribute_tensor(value, live.device_mesh, live.placements, src_data_rank=None)
    return value.clone()
