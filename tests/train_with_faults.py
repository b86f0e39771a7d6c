"""Runs `launchers.train` with a fault put in; a process of its own for the tests of resumption.

FAULT names where the process kills itself with SIGKILL: `micro:<n>` after the n-th micro-batch's backward pass,
`before:<n>` and `after:<n>` the optimizer's n-th step, `write:<n>` half-way through writing the n-th checkpoint,
`commit:<n>` between its rename and its manifest, `validation:<n>` in the n-th validation batch; `term:<n>` sends itself
SIGTERM in the n-th backward pass instead, `ask:<n>` in the n-th validation batch; `nan:<n>` spoils the loss of the n-th
micro-batch, `gradient:<n>` its gradients. FAULT_RANK names the rank that it happens to; without, it happens to each.
IDS_LOG names a file for the rows of every micro-batch.
"""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from common import checkpoint
from launchers import train
from launchers.command import run

KIND, _, COUNT = os.environ.get("FAULT", "none:0").partition(":")
RANK = os.environ.get("FAULT_RANK", "")
IDS_LOG = os.environ.get("IDS_LOG")
calls = {"n": 0}


def due() -> bool:
    if RANK not in ("", os.environ.get("LOCAL_RANK", "0")):
        return False
    calls["n"] += 1
    return calls["n"] == int(COUNT)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def around(function: Callable[..., Any], *, after: Callable[..., None]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        after(*args, **kwargs)
        return result

    return wrapped


def half_written(trainer: Trainer, filepath: Path, *args: Any, **kwargs: Any) -> None:
    if due():
        size = os.path.getsize(filepath)
        os.truncate(filepath, size // 2)
        die()


def uncommitted(temporary: Path, final: Path, manifest: checkpoint.Manifest) -> None:
    if due():
        temporary.replace(final)
        die()
    commit(temporary, final, manifest)


class Faults(Callback):
    """Sits in the trainer of any method."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if KIND == "nan":
            step = module.training_step
            module.training_step = lambda *args: spoilt(step(*args)) if due() else step(*args)  # type: ignore[method-assign]
        if KIND == "gradient":  # on its way, before anything reduces or keeps it
            first = next(each for each in module.parameters() if each.requires_grad)
            first.register_hook(lambda gradient: gradient * math.inf if due() else gradient)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if IDS_LOG:
            with open(f"{IDS_LOG}.{module.global_rank}", "a") as file:
                file.write(f"{module.global_step} {' '.join(str(row) for row in rows_of(batch))}\n")

    def on_after_backward(self, trainer: Trainer, module: LightningModule) -> None:
        if KIND == "micro" and due():
            die()
        if KIND == "term" and due():
            os.kill(os.getpid(), signal.SIGTERM)

    def on_before_optimizer_step(self, *args: Any) -> None:
        if KIND == "before" and due():
            die()

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        if KIND == "validation" and due():
            die()
        if KIND == "ask" and due():
            os.kill(os.getpid(), signal.SIGTERM)


def spoilt(loss: Any) -> Any:
    """What a training step returns, not a number any more."""
    return {**loss, "loss": loss["loss"] * math.nan} if isinstance(loss, dict) else loss * math.nan


def stepped(module: LightningModule, *args: Any, **kwargs: Any) -> None:
    if due():
        die()


def rows_of(batch: Any) -> list[int]:
    """Rows of a micro-batch in their data set."""
    rows = batch.rows if hasattr(batch, "rows") else batch.text.conversations
    return list(map(int, rows))


commit = checkpoint.commit
LightningModule.configure_callbacks = lambda module: [Faults()]  # type: ignore[method-assign]
if KIND == "after":
    LightningModule.optimizer_step = around(LightningModule.optimizer_step, after=stepped)  # type: ignore[method-assign]
if KIND == "write":
    Trainer.save_checkpoint = around(Trainer.save_checkpoint, after=half_written)  # type: ignore[method-assign]
if KIND == "commit":
    checkpoint.commit = uncommitted

if __name__ == "__main__":
    run(train.main, config_name="config")
