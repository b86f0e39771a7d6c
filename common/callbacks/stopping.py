"""SIGTERM, Ctrl-C and the warning of SLURM: save at the next step boundary, then stop or be put back."""

import logging
import signal
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

from common.callbacks.checkpointing import Checkpointing
from common.slurm import being_preempted, by_srun

log = logging.getLogger(__name__)
EXIT_STOPPED = 143  # 128 + SIGTERM: the run was told to stop, and can go on with ckpt=last


class StopOnSignal(Callback):
    """Handlers only set a flag; the ranks agree on it between two steps, all save the same step, and all leave.

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
        self._asked: set[int] = set()
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Here and not in setup: Lightning puts its own SIGTERM handler in place after setup.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            self._previous[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._asked:
            raise KeyboardInterrupt
        log.warning("%s: saving at the next step, then stopping", signal.Signals(number).name)
        self._asked.add(number)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        batch_idx = args[-1]
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches or step == trainer.max_steps:
            return
        if trainer.world_size > 1 and step % self.agree_every:
            return
        if trainer.strategy.reduce_boolean_decision(bool(self._asked), all=False):
            saver = next(each for each in trainer.callbacks if isinstance(each, Checkpointing))  # type: ignore[attr-defined]
            saver.save(trainer)
            self._leave(trainer, step)

    def _leave(self, trainer: Trainer, step: int) -> None:
        warned = trainer.strategy.reduce_boolean_decision(signal.SIGUSR2 in self._asked, all=False)
        handler = self._previous[signal.SIGUSR2]
        first = trainer.is_global_zero and by_srun() and callable(handler)
        if not trainer.strategy.broadcast(first and (warned or being_preempted())):
            log.warning("stopped at step %d; go on with ckpt=last", step)
            raise SystemExit(EXIT_STOPPED)
        if trainer.is_global_zero:
            log.warning("stopped at step %d; back into the queue", step)
            handler(signal.SIGUSR2, None)
        raise SystemExit(0)  # another status would end rank 0 before it has put the job back

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
