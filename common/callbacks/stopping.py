"""SIGTERM and Ctrl-C: save at the next step boundary, then stop."""

import logging
import signal
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

from common.callbacks.checkpointing import Checkpointing

log = logging.getLogger(__name__)
EXIT_STOPPED = 143  # 128 + SIGTERM: the run was told to stop, and can go on with ckpt=last


class StopOnSignal(Callback):
    """Handlers only set a flag; the ranks agree on it between two steps, all save the same step, and all leave.

    Saving inside a handler could interrupt a backward pass, and ranks that save on their own come back at different
    steps. A second Ctrl-C stops at once.
    """

    def __init__(self, *, agree_every: int = 10) -> None:
        """
        Args:
            agree_every: optimizer steps between two agreements when there are several ranks (each is a small
                all-reduce); a single process looks at every step.
        """
        self.agree_every = agree_every
        self._asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Here and not in setup: Lightning puts its own SIGTERM handler in place after setup.
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        log.warning("%s: saving at the next step, then stopping", signal.Signals(number).name)
        self._asked = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        batch_idx = args[-1]
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches or step == trainer.max_steps:
            return
        if trainer.world_size > 1 and step % self.agree_every:
            return
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            saver = next(each for each in trainer.callbacks if isinstance(each, Checkpointing))  # type: ignore[attr-defined]
            saver.save(trainer)
            log.warning("stopped at step %d; go on with ckpt=last", step)
            raise SystemExit(EXIT_STOPPED)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
