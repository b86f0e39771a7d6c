"""What a training process is doing, in one byte of memory that it shares with the test through a file."""

import mmap
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from common.callbacks.checkpointing import Checkpointing

NAMES = (
    "starting",
    "forward and backward",
    "before the optimizer step",
    "after the optimizer step",
    "between steps",
    "validation",
    "writing a checkpoint",
    "committing a checkpoint",
    "ended",
)


def read(place: Path) -> str:
    content = place.read_bytes() if place.exists() else b""
    return NAMES[content[0]] if content else NAMES[0]


class Watch(Callback):
    """Notes the phase at each hook."""

    def __init__(self, place: Path) -> None:
        place.write_bytes(b"\0")
        with open(place, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 1)

    def now(self, phase: str) -> None:
        self.memory[0] = NAMES.index(phase)

    def on_train_batch_start(self, *_: Any) -> None:
        self.now("forward and backward")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.now("before the optimizer step")

    def on_validation_start(self, *_: Any) -> None:
        self.now("validation")

    def on_validation_end(self, *_: Any) -> None:
        self.now("between steps")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.now("ended")


def watch(place: Path, callbacks: list[Callback]) -> None:
    """Notes the phases of whatever this process trains, and gives the trainer further callbacks."""
    seen = Watch(place)
    LightningModule.configure_callbacks = lambda module: [seen, *callbacks]  # type: ignore[method-assign]
    save, commit, step = Checkpointing.save, Checkpointing._commit, LightningModule.optimizer_step

    def saving(self: Checkpointing, trainer: Trainer) -> None:
        seen.now("writing a checkpoint")
        save(self, trainer)
        seen.now("between steps")

    def committing(self: Checkpointing, *args: Any) -> str | None:
        seen.now("committing a checkpoint")
        return commit(self, *args)

    def stepping(self: LightningModule, *args: Any, **kwargs: Any) -> None:
        step(self, *args, **kwargs)
        seen.now("after the optimizer step")

    Checkpointing.save, Checkpointing._commit = saving, committing  # type: ignore[method-assign]
    LightningModule.optimizer_step = stepping  # type: ignore[method-assign]
