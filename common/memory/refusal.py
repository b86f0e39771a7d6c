"""What a machine that is too small is told: what would be needed, and what fits instead."""

from collections.abc import Callable, Mapping

from common.config import ConfigError
from common.memory.devices import Need
from common.memory.run import MemoryRun
from common.memory.table import PARTS, size

OTHERS = 8  # devices over which a strategy divides, in an alternative


class TooSmallError(ConfigError):
    """The run does not fit on the machine by the estimate; the message says what does."""


def refuse_too_small(run: MemoryRun, *, what: str, others: Callable[[], Mapping[str, MemoryRun]]) -> None:
    """Refuses a run that does not fit on its devices by the estimate; on a CPU nothing is refused.

    Args:
        run: as it is asked for.
        what: names run and machine, for the message.
        others: gives runs with other settings, by what one would write; only asked where they are wanted.

    Raises:
        TooSmallError: says what each part takes, and what fits.
    """
    if run.capacity is None:
        return
    needed = run.need()
    if needed.total <= run.capacity:
        return
    fitting = alternatives(run, others())
    remedy = f"what fits: {'; '.join(fitting)}" if fitting else "nothing that is known fits: take a larger machine"
    raise TooSmallError(
        f"{what} does not fit: by the estimate each device needs {size(needed.total)} ({parts(needed)}) during "
        f"{needed.when}, and has {size(run.capacity)}; {remedy}"
    )


def alternatives(run: MemoryRun, others: Mapping[str, MemoryRun]) -> list[str]:
    """Settings with which the run fits on such devices, what each then needs, and what that saves."""
    assert run.capacity is not None
    needs = {name: other.need() for name, other in others.items()}
    if not run.packed:
        needs |= {
            f"{name} over {OTHERS} of them": run.need(strategy=name, devices=OTHERS) for name in ("zero2", "fsdp")
        }
    fitting = {name: each for name, each in needs.items() if each.total <= run.capacity}
    own = run.need().total
    ordered = sorted(fitting.items(), key=lambda item: item[1].total)
    return [f"{name} ({size(each.total)}, saves {size(own - each.total)})" for name, each in ordered]


def parts(needed: Need) -> str:
    """The parts that matter, the largest first."""
    sizes = {name: getattr(needed, field) for name, field in PARTS.items()}
    shown = sorted(sizes.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {size(count)}" for name, count in shown if count >= 0.01 * needed.total)
