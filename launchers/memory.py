"""python -m launchers.memory experiment=<name> hardware=<name>: what each device needs, before anything is built."""

import re
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from common.config import CONF, ROOT, bind
from common.memory.recipe import paths_of
from common.memory.run import MemoryRun
from common.memory.table import by_devices, by_part, by_setting, size, write
from launchers.command import compose, run

FRACTIONS = (0.0, 0.5, 1.0)
NOTE = "Bytes a device, GB = 1e9; in brackets what does not fit. Estimated from one step without storage, not measured."


def main(cfg: DictConfig) -> None:
    """Prints the parts, what settings save, and devices by strategy; or writes the last into a page."""
    asked = [word for word in HydraConfig.get().overrides.task if not word.startswith("memory.")]
    name = HydraConfig.get().runtime.choices["experiment"]
    own = memory_run(cfg)
    related = {each: memory_run(cfg_of(asked, each)) for each in relatives(name)}
    if cfg.memory.write is None:
        print(
            f"\n{name}, {cfg.hw}, {own.devices} x {own.strategy}, micro-batch {own.tree['micro']}\n\n{by_part(own)}\n"
        )
        print(f"{by_setting(own, {**fractions(asked, cfg), **related})}\n")
    if own.capacity is not None:
        if cfg.memory.write is None:
            print(f"{by_devices({name: own})}\n\n{NOTE}")
        else:
            words = " ".join([*(word for word in asked if "paths." not in word), f"memory.write={cfg.memory.write}"])
            told = f"{NOTE}\nWritten by `python -m launchers.memory {words}`, each device {size(own.capacity)}."
            write(ROOT / cfg.memory.write, f"{told}\n\n{by_devices({name: own, **related})}")


def memory_run(cfg: DictConfig) -> MemoryRun:
    """The run of a configuration; on a machine that it is not claimed to run on, with a micro-batch of one."""
    tree: dict[str, Any] = {"hw": cfg.hw, "global": cfg.batch["global"]}
    tree["micro"] = cfg.batch.micro_on.get(cfg.hw, 1)
    cfg.batch.micro = tree["micro"]
    for key in ("model", "data"):
        tree[key] = OmegaConf.to_container(cfg[key], resolve=True)
        bind(tree[key], key)
    tree["trainer"] = {key: cfg.trainer[key] for key in ("precision", "strategy", "devices", "num_nodes")}
    return MemoryRun(tree)


def cfg_of(asked: list[str], experiment: str) -> DictConfig:
    """The configuration of another experiment on the same machine."""
    keep = [word for word in asked if not re.match(r"experiment=|model\.|batch\.micro", word)]
    return compose(*keep, f"experiment={experiment}", "paths.run=unused")


def fractions(asked: list[str], cfg: DictConfig) -> dict[str, MemoryRun]:
    """The same run with other shares of its blocks recomputed."""
    places = paths_of(OmegaConf.to_container(cfg.model), "checkpoint_fraction", "model.")
    runs = {}
    for share in FRACTIONS if places else ():
        words = [f"{place}={share}" for place in places]
        runs[f"checkpoint_fraction={share}"] = memory_run(compose(*asked, "paths.run=unused", *words))
    return runs


def relatives(name: str) -> list[str]:
    """Experiments that are the same but for what learns: full, adapters, packed."""
    ways = r"_(lora|qlora|full)(?=_|$)"
    stem = re.sub(ways, "", name)
    known = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
    return [each for each in known if each != name and re.sub(ways, "", each) == stem]


if __name__ == "__main__":
    run(main, config_name="config")
