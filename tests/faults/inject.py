"""Faults of a training process: each returns a function that puts one in, for `Life(fault=...)`.

They are classes with values alone, so that they travel to the process; what they change, they change there. Steps and
calls are counted from 1. A run has 8 steps of two micro-batches; it saves at steps 2, 4, 6, 8 and validates at 4 and 8.
"""

import errno
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from common import checkpoint, disk
from common.data.module import StreamData
from common.loggers import MetricsFile


def die(number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


class Counted:
    """Lets the n-th call of something go wrong."""

    def __init__(self, number: int) -> None:
        self.left = number

    def due(self) -> bool:
        self.left -= 1
        return self.left == 0


@dataclass(frozen=True)
class Raises:
    """An exception in the n-th training step."""

    error: type[BaseException]
    number: int = 9

    def __call__(self) -> list[Callback]:
        counted = Counted(self.number)

        class Raising(Callback):
            def on_before_backward(_, *args: Any) -> None:
                if counted.due():
                    raise self.error("put in by a test")

        return [Raising()]


@dataclass(frozen=True)
class BadLoss:
    """The loss of the n-th micro-batch is not a number, as the model computes it."""

    value: float
    number: int = 9

    def __call__(self) -> list[Callback]:
        counted, value = Counted(self.number), self.value

        def spoilt(loss: Any) -> Any:
            if isinstance(loss, dict):
                return {**loss, "loss": loss["loss"] * value}
            return loss * value

        class Spoiling(Callback):
            def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
                step = pl_module.training_step
                pl_module.training_step = lambda *args: (  # type: ignore[method-assign]
                    spoilt(step(*args)) if counted.due() else step(*args)
                )

        return [Spoiling()]


@dataclass(frozen=True)
class BadGradient:
    """One number of a gradient is infinite after the n-th backward pass."""

    number: int = 10

    def __call__(self) -> list[Callback]:
        counted = Counted(self.number)

        class Spoiling(Callback):
            def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
                if counted.due():
                    first = next(each.grad for each in pl_module.parameters() if each.grad is not None)
                    first[(0,) * first.ndim] = float("inf")

        return [Spoiling()]


@dataclass(frozen=True)
class Loader:
    """The process that loads data fails at its n-th batch: by an exception, or by a signal to itself."""

    error: type[BaseException] | None = None
    by: signal.Signals = signal.SIGKILL
    number: int = 9

    def __call__(self) -> list[Callback]:
        make, counted = StreamData._loader, Counted(self.number)

        def loader(data: StreamData, rows: Any, batches: Any) -> Any:
            made = make(data, rows, batches)
            if rows is not data.rows("train"):
                return made
            collate = made.collate_fn

            def collated(samples: list[Any]) -> Any:
                if counted.due():
                    if self.error is not None:
                        raise self.error("put in by a test")
                    die(self.by)
                return collate(samples)

            made.collate_fn = collated
            return made

        StreamData._loader = loader  # type: ignore[method-assign]
        return []


class FromStep(Callback):
    """Does something once, when a step begins."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step, self.action, self.done = step, action, False

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step + 1 == self.step and not self.done:
            self.done = True
            self.action()


@dataclass(frozen=True)
class Asked:
    """A signal to itself as a step begins."""

    by: signal.Signals
    step: int

    def __call__(self) -> list[Callback]:
        return [FromStep(self.step, lambda: die(self.by))]


@dataclass(frozen=True)
class SmallFiles:
    """From the third step on, files cannot grow past 60,000 bytes."""

    def __call__(self) -> list[Callback]:
        return [FromStep(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY)))]


@dataclass(frozen=True)
class NoDescriptors:
    """From the third step on, no further file can be opened."""

    def __call__(self) -> list[Callback]:
        def limit() -> None:
            most = max(map(int, os.listdir("/proc/self/fd"))) + 1
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            self.fill(most)

        return [FromStep(3, limit)]

    @staticmethod
    def fill(most: int) -> None:
        while True:  # the numbers that are free below the limit
            try:
                os.dup(0)
            except OSError:
                return


@dataclass(frozen=True)
class LittleSpace:
    """From the third step on, the disk says that 10,000 bytes are free."""

    def __call__(self) -> list[Callback]:
        return [FromStep(3, lambda: setattr(disk, "free_bytes", lambda folder: 10_000))]


@dataclass(frozen=True)
class WriteFails:
    """The n-th checkpoint cannot be written: an error of the file system in one of the calls that a save makes."""

    call: str  # "open", "write", "fsync", "manifest", "rename" or "last"
    number: int
    error: int

    def __call__(self) -> list[Callback]:
        counted, failing = Counted(self.number), OSError(self.error, os.strerror(self.error))

        def fail_if_due() -> None:
            if counted.due():
                raise failing

        def before(function: Callable[..., Any], concerns: Callable[..., bool]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                if concerns(*args):
                    fail_if_due()
                return function(*args, **kwargs)

            return wrapped

        if self.call == "open":
            disk.open = before(open, lambda *_: True)  # type: ignore[attr-defined]
        elif self.call == "write":
            disk.torch = _SavesThen(fail_if_due)  # type: ignore[assignment]
        elif self.call == "fsync":
            os.fsync = before(os.fsync, lambda number: ".ckpt" in os.readlink(f"/proc/self/fd/{number}"))
        elif self.call == "rename":
            Path.replace = before(Path.replace, lambda path, _: ".ckpt." in path.name)  # type: ignore[method-assign]
        else:
            part = {"manifest": ".json.", "last": "last"}[self.call]
            write = checkpoint.atomic_write_text
            checkpoint.atomic_write_text = before(write, lambda path, _: part in path.name)
        return []


class _SavesThen:
    """`torch` for the module that writes checkpoints: half a file, then the fault."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    def save(self, content: Any, file: Any) -> None:
        torch.save(content, file)
        self.then()


@dataclass(frozen=True)
class KillsWhileSaving:
    """SIGKILL within the n-th save."""

    where: str  # "half written", "renamed", "without last" or "half removed"
    number: int

    def __call__(self) -> list[Callback]:
        counted = Counted(self.number)
        if self.where == "half written":

            def cut(trainer: Trainer, path: Path, *args: Any, **kwargs: Any) -> None:
                save(trainer, path, *args, **kwargs)
                if counted.due():
                    os.truncate(path, os.path.getsize(path) // 2)
                    die()

            save = Trainer.save_checkpoint
            Trainer.save_checkpoint = cut  # type: ignore[method-assign]
        elif self.where == "half removed":
            unlink = Path.unlink

            def removing(path: Path, missing_ok: bool = False) -> None:
                unlink(path, missing_ok)
                if path.suffix == ".json" and path.name.startswith("step_") and counted.due():
                    die()

            Path.unlink = removing  # type: ignore[method-assign]
        else:
            replace, ending = Path.replace, {"renamed": ".ckpt", "without last": ".json"}[self.where]

            def renaming(path: Path, target: Path) -> Path:
                result = replace(path, target)
                if target.suffix == ending and target.name.startswith("step_") and counted.due():
                    die()
                return result

            Path.replace = renaming  # type: ignore[method-assign]
        return []


@dataclass(frozen=True)
class MetricsFail:
    """The metrics file cannot be written any more from the n-th row on."""

    number: int

    def __call__(self) -> list[Callback]:
        counted, log = Counted(self.number), MetricsFile.log_metrics

        def failing(*args: Any, **kwargs: Any) -> None:
            if counted.due():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            log(*args, **kwargs)

        MetricsFile.log_metrics = failing  # type: ignore[method-assign]
        return []


@dataclass(frozen=True)
class ClockJumps:
    """From the third step on the clock is a day behind, from the sixth a year ahead."""

    def __call__(self) -> list[Callback]:
        now = time.time

        def jump(seconds: float) -> Callable[[], None]:
            return lambda: setattr(time, "time", lambda: now() + seconds)

        return [FromStep(3, jump(-86400.0)), FromStep(6, jump(365 * 86400.0))]


@dataclass(frozen=True)
class NoNetwork:
    """No connection can be made, and the Hub's address leads nowhere."""

    def __call__(self) -> list[Callback]:
        def refused(*args: Any) -> None:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

        os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
        socket.socket.connect = refused  # type: ignore[method-assign]
        return []


@dataclass(frozen=True)
class Slow:
    """Each micro-batch takes so many seconds more."""

    seconds: float

    def __call__(self) -> list[Callback]:
        class Sleeping(Callback):
            def on_train_batch_start(_, *args: Any) -> None:
                time.sleep(self.seconds)

        return [Sleeping()]


@dataclass(frozen=True)
class SleepsWhileSaving:
    """The n-th save stops once the file is written, as long as a file `asleep` is in the run folder."""

    number: int

    def __call__(self) -> list[Callback]:
        counted, save = Counted(self.number), Trainer.save_checkpoint

        def sleeping(trainer: Trainer, path: Path, *args: Any, **kwargs: Any) -> None:
            save(trainer, path, *args, **kwargs)
            if counted.due():
                note = path.parents[1] / "asleep"
                note.touch()
                while note.exists():
                    time.sleep(0.01)

        Trainer.save_checkpoint = sleeping  # type: ignore[method-assign]
        return []
