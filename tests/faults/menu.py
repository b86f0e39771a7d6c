"""The kinds of faults, what each must end in, and what is done from outside."""

import errno
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from common.callbacks.stopping import EXIT_STOPPED
from tests.faults import damage, inject
from tests.faults.lives import Fault, Life

DONE = 0
FAILED = 1
DEAD = -signal.SIGKILL
STEP = "forward and backward"


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: for people.
        status: of the process that it happens to; negative for a signal.
        said: a regular expression that its output must match.
        fault: put into the process.
        outside: done to the process while it lives.
        damage: done to the run folder after the process has ended.
        warned: a regular expression that the output of the next start must match.
        overrides: of the configuration of the process that it happens to.
    """

    name: str
    status: int
    said: str = ""
    fault: Fault | None = None
    outside: Callable[[Life], None] | None = None
    damage: Callable[[Path], None] | None = None
    warned: str = ""
    overrides: tuple[str, ...] = field(default=())


def sends(*numbers: signal.Signals, phase: str = STEP) -> Callable[[Life], None]:
    """Signals, a moment apart, once the process is in a phase after its second step."""

    def send(life: Life) -> None:
        wait_for_step(life, 2)
        life.wait_for(phase)
        for number in numbers:
            life.signal(number)
            time.sleep(0.05)

    return send


def wait_for_step(life: Life, step: int) -> None:
    """Returns when a checkpoint of this step is committed, or the process has ended."""
    while not (life.run / "checkpoints" / f"step_{step:07d}.json").exists() and life.process.is_alive():
        time.sleep(0.002)


def sleeps(life: Life) -> None:
    sends(signal.SIGSTOP)(life)
    time.sleep(1.0)
    life.signal(signal.SIGCONT)


SLOW = inject.Slow(0.1)
KEPT = r"step_000000\d\.ckpt is kept"
TAKES_BEFORE = "does not match its manifest; taking the one before"


def write_fails(name: str, call: str, number: int, error: int) -> Kind:
    return Kind(name, FAILED, KEPT, fault=inject.WriteFails(call, number, error))


def dies_of(number: signal.Signals) -> Kind:
    return Kind(f"{number.name} from outside", -number, fault=SLOW, outside=sends(number))


def stops_on(name: str, *numbers: signal.Signals, phase: str = STEP) -> Kind:
    return Kind(name, EXIT_STOPPED, "stopped at step", fault=SLOW, outside=sends(*numbers, phase=phase))


MENU = [
    stops_on("SIGTERM", signal.SIGTERM),
    stops_on("SIGTERM while a checkpoint is written", signal.SIGTERM, phase="writing a checkpoint"),
    stops_on("SIGTERM in validation", signal.SIGTERM, phase="validation"),
    stops_on("SIGINT", signal.SIGINT),
    Kind("SIGINT twice", FAILED, fault=inject.Slow(0.4), outside=sends(signal.SIGINT, signal.SIGINT)),
    *(dies_of(number) for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGABRT, signal.SIGSEGV)),
    Kind("SIGSTOP for a second", DONE, outside=sleeps),
    Kind("exception in a step", FAILED, "RuntimeError: put in", fault=inject.Raises(RuntimeError)),
    Kind("device out of memory", FAILED, "OutOfMemoryError", fault=inject.Raises(torch.OutOfMemoryError)),
    Kind("host out of memory", FAILED, "MemoryError", fault=inject.Raises(MemoryError)),
    Kind("loss is not a number", FAILED, "step 5 is not finite: loss", fault=inject.BadLoss(float("nan"))),
    Kind("loss is infinite", FAILED, "step 5 is not finite: loss", fault=inject.BadLoss(float("inf"))),
    Kind("gradient is infinite", FAILED, "step 5 is not finite: gradients", fault=inject.BadGradient()),
    Kind(
        "exception in a loader process",
        FAILED,
        "KeyError: 'put in",
        fault=inject.Loader(KeyError),
        overrides=("data.num_workers=1",),
    ),
    Kind("loader process killed", FAILED, "killed", fault=inject.Loader(), overrides=("data.num_workers=1",)),
    Kind(
        "loader process crashes in native code",
        FAILED,
        "egmentation",
        fault=inject.Loader(by=signal.SIGSEGV),
        overrides=("data.num_workers=1",),
    ),
    Kind("too little space is seen before a save", FAILED, f"bytes.*are missing; {KEPT}", fault=inject.LittleSpace()),
    Kind("file size limit reached while writing", FAILED, f"File too large.*{KEPT}", fault=inject.SmallFiles()),
    Kind("no file descriptors left", FAILED, "Too many open files", fault=inject.NoDescriptors()),
    write_fails("disk full while writing", "write", 2, errno.ENOSPC),
    write_fails("quota exceeded while writing", "write", 2, errno.EDQUOT),
    write_fails("file system turned read-only", "open", 2, errno.EROFS),
    write_fails("input/output error while flushing", "fsync", 3, errno.EIO),
    write_fails("stale file handle of a network disk", "fsync", 4, errno.ESTALE),
    write_fails("disk full at the manifest", "manifest", 2, errno.ENOSPC),
    write_fails("rename of a checkpoint fails", "rename", 2, errno.EIO),
    write_fails("the pointer to the newest cannot be written", "last", 2, errno.ENOSPC),
    Kind("metrics file cannot be written", FAILED, "No space left", fault=inject.MetricsFail(6)),
    Kind("SIGKILL with a checkpoint half written", DEAD, fault=inject.KillsWhileSaving("half written", 2)),
    Kind("SIGKILL between rename and manifest", DEAD, fault=inject.KillsWhileSaving("renamed", 2)),
    Kind("SIGKILL between manifest and pointer", DEAD, fault=inject.KillsWhileSaving("without last", 2)),
    Kind("SIGKILL between first manifest and pointer", DEAD, fault=inject.KillsWhileSaving("without last", 1)),
    Kind("SIGKILL while an old checkpoint is removed", DEAD, fault=inject.KillsWhileSaving("half removed", 1)),
    Kind("SIGTERM in the step before a validation", EXIT_STOPPED, "stopped at step 4", inject.Asked(signal.SIGTERM, 4)),
    Kind("clock jumps back and forth", DONE, fault=inject.ClockJumps()),
    Kind("no network, and a Hub that is down", DONE, fault=inject.NoNetwork()),
    *(
        Kind(name, DEAD, fault=SLOW, outside=lambda life: at_step_six(life), damage=harm, warned=warned)
        for name, harm, warned in [
            ("newest checkpoint truncated", damage.truncate, TAKES_BEFORE),
            ("newest checkpoint empty", damage.empty, TAKES_BEFORE),
            ("one bit of the newest checkpoint flipped", damage.flip_a_bit, TAKES_BEFORE),
            ("newest checkpoint removed", damage.remove, ""),
            ("manifest of the newest removed", damage.remove_manifest, ""),
            ("manifest of the newest empty", damage.empty_manifest, TAKES_BEFORE),
            ("pointer to the newest empty", damage.empty_pointer, ""),
            ("parts of an interrupted save left", damage.leave_parts, ""),
            ("last line of the metrics torn", damage.tear_metrics, ""),
        ]
    ),
]


def at_step_six(life: Life) -> None:
    """Kills between the save of step 6 and the end, so that two checkpoints are there."""
    wait_for_step(life, 6)
    life.wait_for(STEP)
    life.signal(signal.SIGKILL)
