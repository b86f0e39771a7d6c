"""Environment variables that a machine needs, set before processes find each other."""

import os
import re
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from common.config import ConfigError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Read when Python, torch or the Hub's library is loaded, which has happened when a configuration is composed.
EARLY = frozenset(
    {"HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "LD_LIBRARY_PATH", "LD_PRELOAD", "MKL_NUM_THREADS"}
    | {"OMP_NUM_THREADS", "PYTHONHASHSEED", "PYTHONPATH", "TRANSFORMERS_OFFLINE"}
)

# Seconds that a collective waits for the slowest process. NCCL and torch read no such variable by themselves.
TIMEOUT = "NCCL_TIMEOUT"


def set_environment(values: Mapping[str, Any], *, asked: Collection[str] = ()) -> dict[str, str]:
    """Sets the variables of a configuration in this process, and so in those that it starts.

    The command line wins over the environment that the user has set, and that over the hardware file.

    Args:
        values: number or text of each variable; null leaves it as it is.
        asked: names that the command line gives.

    Returns:
        What was set.

    Raises:
        ConfigError: a name that is none, a value that is neither, or a variable that would be read too late.
    """
    wanted = {name: _text(name, value) for name, value in values.items() if value is not None}
    chosen = {name: text for name, text in wanted.items() if name in asked or name not in os.environ}
    _ = timeout({**os.environ, **chosen})
    os.environ.update(chosen)
    return chosen


def _text(name: str, value: Any) -> str:
    if not NAME.fullmatch(name):
        raise ConfigError(f"environment.{name} is no name of a variable")
    if name in EARLY:
        raise ConfigError(f"environment.{name} would be set too late; set it in the shell, before the command")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"environment.{name}={value}: give a number or a text; switches are 1 or 0")
    return str(value)


def timeout(environment: Mapping[str, str]) -> timedelta | None:
    """How long processes wait for each other, of NCCL_TIMEOUT; None where it is not set.

    Raises:
        ConfigError: not a number of seconds above 0.
    """
    text = environment.get(TIMEOUT)
    if text is None:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"{TIMEOUT}={text}: give whole seconds, 1800 or more for slow disks")
    return timedelta(seconds=int(text))


def set_timeout(strategy: Any) -> None:
    """Hands NCCL_TIMEOUT to the strategy of a trainer, if it is set; the process group is made with it.

    Lightning's strategies take it as an argument, which a strategy that is chosen by name does not get.
    """
    waiting = timeout(os.environ)
    if waiting is not None and hasattr(strategy, "_timeout"):
        strategy._timeout = waiting
