"""What a command does about its machine before it builds anything: does the run fit there, and what must be set."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from common.config import CONF, ConfigError, bind, check
from common.environment import set_environment
from common.memory.recipe import paths_of
from common.memory.refusal import refuse_too_small
from common.memory.run import MemoryRun
from launchers.command import compose

FRACTIONS = (0.0, 0.5, 1.0)

# Of a command that only looks: it is never a job of a cluster, and it leaves no folder behind.
LOOK = ("hydra.mode=RUN", "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=disabled")


def ready(cfg: DictConfig) -> None:
    """Checks the configuration, refuses a machine that is too small, and sets the variables that it needs."""
    refuse_unclaimed(cfg)
    check(cfg)
    asked = [word.partition("=")[0].lstrip("+") for word in asked_for()]
    set_environment(cfg.environment, asked=[key.partition(".")[2] for key in asked if key.startswith("environment.")])


def refuse_unclaimed(cfg: DictConfig) -> None:
    """Of a class of machines that an experiment has no micro-batch for, the estimate of memory decides.

    Raises:
        ConfigError: it does not fit, or it does and the micro-batch is not given.
    """
    claims = claimed(cfg)
    if cfg.hw in claims:
        return
    run = memory_run(cfg)
    where = f"{cfg.hw}, {run.devices} x {run.strategy}, micro-batch {run.tree['micro']}"
    what = f"{cfg.name} (claimed on {', '.join(claims)}) on {where},"
    refuse_too_small(run, what=what, others=lambda: others(chosen("experiment")))
    if unknown_micro_batch(cfg):
        raise ConfigError(
            f"{cfg.name} names no micro-batch for {cfg.hw} (it has {', '.join(claims)}); by the estimate 1 "
            f"fits: give batch.micro_on.{cfg.hw}=1"
        )


def claimed(cfg: DictConfig) -> list[str]:
    """Classes of machines that the experiment has a micro-batch for."""
    return [str(name) for name, micro in cfg.batch.micro_on.items() if micro is not None]


def unknown_micro_batch(cfg: DictConfig) -> bool:
    """Whether neither the experiment nor the command line says how many rows a device of this class takes."""
    return OmegaConf.is_interpolation(cfg.batch, "micro") and cfg.hw not in claimed(cfg)


def asked_for() -> list[str]:
    """The words of the command line that are about the run; none outside a command."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def chosen(group: str) -> str | None:
    """The choice of a group, such as the experiment; None outside a command."""
    return str(HydraConfig.get().runtime.choices[group]) if HydraConfig.initialized() else None


def memory_run(cfg: DictConfig) -> MemoryRun:
    """The run of a configuration; on a machine that it is not claimed to run on, with a micro-batch of one."""
    if unknown_micro_batch(cfg):
        cfg = OmegaConf.merge(cfg, {"batch": {"micro": 1}})  # type: ignore[assignment]
    tree: dict[str, Any] = {"hw": cfg.hw, "global": cfg.batch["global"], "micro": cfg.batch.micro}
    for key in ("model", "data"):
        tree[key] = OmegaConf.to_container(cfg[key], resolve=True)
        bind(tree[key], key)
    tree["trainer"] = {key: cfg.trainer[key] for key in ("precision", "strategy", "devices", "num_nodes")}
    tree["average"] = "ema" in cfg.callbacks
    return MemoryRun(tree)


def others(experiment: str | None) -> Mapping[str, MemoryRun]:
    """Experiments that differ from this one in what learns, on the same machine."""
    names = relatives(experiment) if experiment else []
    return {f"experiment={each}": memory_run(cfg_of(asked_for(), each)) for each in names}


def cfg_of(asked: list[str], experiment: str) -> DictConfig:
    """The configuration of another experiment on the same machine."""
    keep = [word for word in asked if not re.match(r"experiment=|model\.|batch\.micro", word)]
    return compose(*keep, f"experiment={experiment}", "paths.run=unused")


def fractions(asked: list[str], cfg: DictConfig, shares: Sequence[float] = FRACTIONS) -> dict[str, MemoryRun]:
    """The same run with other shares of its blocks recomputed."""
    places = paths_of(OmegaConf.to_container(cfg.model), "checkpoint_fraction", "model.")
    runs = {}
    for share in shares if places else ():
        words = [f"{place}={share}" for place in places]
        runs[f"checkpoint_fraction={share}"] = memory_run(compose(*asked, "paths.run=unused", *words))
    return runs


def relatives(name: str) -> list[str]:
    """Experiments that are the same but for what learns: full, adapters, packed."""
    ways = r"_(lora|qlora|full)(?=_|$)"
    stem = re.sub(ways, "", name)
    known = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
    return [each for each in known if each != name and re.sub(ways, "", each) == stem]
