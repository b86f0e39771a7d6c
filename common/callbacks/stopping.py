"""SIGTERM, Ctrl-C and the warning of SLURM: save at the next step or validation batch, then stop or be put back."""

import logging
import signal
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from common.callbacks.checkpointing import Checkpointing
from common.ema import Ema
from common.slurm import being_preempted, by_srun

log = logging.getLogger(__name__)
EXIT_STOPPED = 143  # 128 + SIGTERM: the run was told to stop, and can go on with ckpt=last


class StopOnSignal(Callback):
    """Handlers only set a flag; the ranks agree on it between two steps, all save the same step, and all leave.

    They agree between two batches of a validation too, which may be longer than the time that is left. What it has
    measured is dropped: the step is saved as one that was not validated, and the next start makes up for that. The
    validation of the last step is not broken off, because a run that has all its steps would not come back to it.

    Saving inside a handler could interrupt a backward pass, and ranks that save on their own come back at different
    steps. A second Ctrl-C stops at once.

    SLURM warns a job (SIGUSR2) before its time is over or another takes its place; some clusters have no such warning
    for the second and send SIGTERM. In both cases rank 0 puts the job back into the queue once all have saved, by the
    handler that submitit had installed. Left in place, that would act in the middle of a step, and on rank 0 alone.
    """

    def __init__(self, *, agree_every: int = 10) -> None:
        """
        Args:
            agree_every: optimizer steps between two agreements when there are several ranks (each is a small
                all-reduce); a single process looks at every step.
        """
        self.agree_every = agree_every
        self._common_batches = 0  # of a validation, that every rank has
        self._asked: set[int] = set()
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Here and not in setup: Lightning puts its own SIGTERM handler in place after setup.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            self._previous[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._asked:
            raise KeyboardInterrupt
        log.warning("%s: saving at the next step or validation batch, then stopping", signal.Signals(number).name)
        self._asked.add(number)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        batch_idx = args[-1]
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches or step == trainer.max_steps:
            return
        if trainer.world_size > 1 and step % self.agree_every:
            return
        self._save_and_leave_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The ranks may have different numbers of batches, and can agree only while all have one."""
        own = torch.tensor(sum(trainer.num_val_batches), device=trainer.strategy.root_device)
        fewest = trainer.strategy.reduce(own, reduce_op="min")
        assert isinstance(fewest, Tensor)
        self._common_batches = int(fewest)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        among_steps = trainer.state.fn == "fit" and trainer.global_step < trainer.max_steps
        if among_steps and batch_idx + 1 < self._common_batches:  # after the last it ends by itself
            self._save_and_leave_if_asked(trainer)

    def _save_and_leave_if_asked(self, trainer: Trainer) -> None:
        if not trainer.strategy.reduce_boolean_decision(bool(self._asked), all=False):
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for average in (each for each in callbacks if isinstance(each, Ema)):
            average.put_back()
        savers = [each for each in callbacks if isinstance(each, Checkpointing)]
        for saver in savers:
            saver.save(trainer)
        then = "go on with ckpt=last" if savers else "nothing is saved: callbacks.checkpointing is off"
        self._leave(trainer, then)

    def _leave(self, trainer: Trainer, then: str) -> None:
        step = trainer.global_step
        warned = trainer.strategy.reduce_boolean_decision(signal.SIGUSR2 in self._asked, all=False)
        handler = self._previous[signal.SIGUSR2]
        first = trainer.is_global_zero and by_srun() and callable(handler)
        if not trainer.strategy.broadcast(first and (warned or being_preempted())):
            log.warning("stopped at step %d; %s", step, then)
            raise SystemExit(EXIT_STOPPED)
        if trainer.is_global_zero:
            log.warning("stopped at step %d; back into the queue", step)
            handler(signal.SIGUSR2, None)
        raise SystemExit(0)  # another status would end rank 0 before it has put the job back

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
