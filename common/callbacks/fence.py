"""A run that a newer start has taken over stops, and writes nothing more."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from common.run import StaleRunError, overtaken


class Fence(Callback):
    """Looks at step boundaries whether a newer start of this run is recorded in its folder.

    After a node failure, a lost connection or a second `ckpt=last` by mistake, two copies of a run may be alive. Each
    start has a generation number; the older stops at its next step boundary without saving. This callback stands
    before those that write; `Checkpointing` looks again around each save, because a process may sleep anywhere.
    """

    def __init__(self, *, run: str, agree_every: int = 10) -> None:
        """
        Args:
            run: the run folder.
            agree_every: optimizer steps between two looks when there are several ranks (each is a small all-reduce);
                a single process looks at every step.
        """
        self.run = Path(run)
        self.agree_every = agree_every
        self.generation: int | None = None  # which start of the run this is; given by the launcher to rank 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        batch_idx = args[-1]
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.world_size == 1 or trainer.global_step % self.agree_every == 0:
            stop_if_overtaken(trainer, self.run, self.generation)


def stop_if_overtaken(trainer: Trainer, run: Path, generation: int | None) -> None:
    """Raises StaleRunError on every rank where rank 0 finds a newer start. Called by every rank.

    Args:
        trainer: of the run.
        run: the run folder.
        generation: of this start; None, as on the other ranks, asks nothing.
    """
    message = overtaken(run, generation) if trainer.is_global_zero and generation is not None else None
    if trainer.strategy.reduce_boolean_decision(message is not None, all=False):
        raise StaleRunError(trainer.strategy.broadcast(message))
