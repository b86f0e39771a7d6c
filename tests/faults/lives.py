"""Lives of a training run: processes of the real command's code, forked from one that has its imports behind it.

A life begins with the composition of the configuration and ends as the command's process would. What a fork leaves out
is the start of Python and the imports, some seconds that hold no state of a run; killing within those is left to the
tests that start whole processes. Each life is a process of its own, and signals reach it from outside.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from lightning import Callback

from launchers import train
from launchers.command import EXPECTED, compose
from tests.faults import phases

PRELOADED = ("tests.faults.lives", "tests.faults.warm")
STEPS = 8
SMALL = [
    f"steps={STEPS}",
    "validate_every=4",
    "batch.global=4",
    "batch.micro=2",
    "batch.eval=8",
    "callbacks.checkpointing.every=2",
    "callbacks.metrics_log.every=1",
    "prepare=[]",
]

Fault = Callable[[], list[Callback]]


class Life:
    """One process that trains in a run folder, from the newest checkpoint if there is one.

    Args:
        run: the run folder.
        overrides: of the configuration.
        fault: called in the process before it trains, gives the trainer further callbacks; of a module.
    """

    def __init__(self, run: Path, *overrides: str, fault: Fault | None = None) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.run, self.output = run, run / f"output.{len(list(run.glob('output.*')))}"
        self.phases = run / "phases"
        self.phases.unlink(missing_ok=True)  # of the life before
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        started = bool(list(run.glob("checkpoints/step_*.json")))
        given = [*SMALL, *overrides, f"paths.run='{run}'", *([f"ckpt='{run}'"] if started else [])]
        self.process: ForkServerProcess = context.Process(target=_live, args=(given, self.output, self.phases, fault))
        self.process.start()
        self._began = time.monotonic()
        self._ended: float | None = None

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(self.process.pid, number)

    def wait(self) -> int:
        """The exit status; negative for a signal."""
        self.process.join()
        assert self.process.exitcode is not None
        self._ended = self._ended or time.monotonic()
        return self.process.exitcode

    def age(self) -> float:
        """Seconds from its start, to its end if `wait` has seen that."""
        return (self._ended or time.monotonic()) - self._began

    def phase(self) -> str:
        """What the process is doing, or did last."""
        return phases.read(self.phases)

    def wait_for(self, phase: str) -> None:
        """Returns when the process is doing this, or has ended."""
        while self.phase() != phase and self.process.is_alive():
            time.sleep(0.001)

    def said(self) -> str:
        return self.output.read_text()


def _live(overrides: Sequence[str], output: Path, place: Path, fault: Fault | None) -> None:
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGQUIT):  # ignored in what nohup, or a shell's background, has started
        signal.signal(number, signal.SIG_DFL)
    multiprocessing.set_start_method("fork", force=True)  # of loader processes, as a command has it
    file = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    logging.basicConfig(level=logging.INFO, force=True, stream=sys.stderr)
    phases.watch(place, [] if fault is None else fault())
    try:
        train.main(compose(*overrides))
    except EXPECTED as error:
        sys.exit(f"error: {error}")
