"""What every command shares: hydra's entry with readable errors, and the preparation that a configuration needs."""

import difflib
import dis
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.config import CONF, ROOT, build, check, config_keys, register

log = logging.getLogger(__name__)
EXPECTED = (HydraException, OmegaConfBaseException, ValueError)
OURS = tuple(ROOT / name for name in ("common", "launchers", "projects"))


def run(function: Callable[[DictConfig], Any], *, config_name: str) -> None:
    """Composes `config_name` with the command line and calls `function`; what the user can mend ends in one message."""
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us whole; those of the configuration are explained below
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(function)()
    except EXPECTED as error:
        if not for_the_user(error):
            raise
        sys.exit(f"error: {explain(error, config_name)}")


def for_the_user(error: BaseException) -> bool:
    """Whether a message is enough: a ValueError that our own code raises says what to do, any other is a defect."""
    if not isinstance(error, ValueError):
        return True
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    assert place is not None
    code = place.tb_frame.f_code
    raised = code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]  # not by a builtin that was called, such as int
    return raised and any(Path(code.co_filename).is_relative_to(folder) for folder in OURS)


def explain(error: BaseException, config_name: str) -> str:
    """The message of an error with the nearest names that exist."""
    if isinstance(error, MissingConfigException) and error.options:
        wanted = str(error.missing_cfg_file).rsplit("/", 1)[-1]
        near = difflib.get_close_matches(wanted, error.options, n=3, cutoff=0.5)
        return f"no {error.missing_cfg_file}; {_either(near, error.options)}"
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, ValueError):
        return f"{error.__cause__}"
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    unknown = re.search(r"[Cc]ould not override '([^']+)'|Key '([^']+)' (?:is )?not in", f"{error} {cause}")
    if unknown is None:
        return f"{error}" if cause is error else f"{error} ({cause})"
    key = unknown.group(1) or unknown.group(2)
    known = known_keys(config_name, without=key)
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    siblings = [each for each in known if each.rpartition(".")[0] == key.rpartition(".")[0]]
    return f"no key {key}; {_either(near, siblings)}"


def _either(near: Sequence[str], known: Sequence[str]) -> str:
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there is {', '.join(sorted(known))}" if known else "see --help"


def known_keys(config_name: str, *, without: str) -> list[str]:
    """Keys of the configuration that the command line means, less its override of `without`."""
    overrides = [
        argument for argument in sys.argv[1:] if "=" in argument and argument.lstrip("+~").partition("=")[0] != without
    ]
    GlobalHydra.instance().clear()
    try:
        cfg = compose(*(each for each in overrides if not each.startswith("hydra")), config_name=config_name)
    except EXPECTED:  # something else on the command line is wrong too: nothing can be suggested
        return []
    return list(config_keys(cfg))


def compose(*overrides: str, config_name: str = "config") -> DictConfig:
    """The configuration that a command line means; inside a command, a notebook or a test."""
    register()
    if not GlobalHydra.instance().is_initialized():
        hydra.initialize_config_dir(str(CONF), version_base="1.3")
    return hydra.compose(config_name, overrides=list(overrides))


def prepare(needs: Sequence[Sequence[str]], *, paths: DictConfig) -> None:
    """Runs the preparation tasks that a run names, in order, once, while other processes wait.

    Args:
        needs: for each task the overrides that select it, such as ["task=shapes"].
        paths: of the run; the tasks get the same.
    """
    data = Path(paths.data)
    data.mkdir(parents=True, exist_ok=True)
    with FileLock(data / ".prepare.lock"):
        for overrides in needs:
            where = (f"paths.data='{paths.data}'", f"paths.run='{paths.run}'")
            run_task(compose(*overrides, *where, config_name="prepare"))


def run_task(cfg: DictConfig) -> Any:
    """Checks and runs one preparation task; the task itself returns at once when its result is there."""
    check(cfg)
    task = build(cfg.task, _partial_=True)
    figures = task()  # here, because hydra would make one line without a traceback of whatever goes wrong in it
    log.info("%s: %s", cfg.task._target_.rpartition(".")[2], figures)
    return figures


def as_yaml(cfg: DictConfig) -> str:
    """The composed configuration with interpolations resolved, as it is kept in the run folder."""
    return OmegaConf.to_yaml(cfg, resolve=True)
