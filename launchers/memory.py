"""python -m launchers.memory experiment=<name> hardware=<name>: what each device needs, before anything is built."""

import sys

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from common.config import ROOT, ConfigError
from common.memory.table import by_devices, by_part, by_setting, size, write
from launchers.command import run
from launchers.machine import LOOK, cfg_of, fractions, memory_run, relatives

NOTE = "Bytes a device, GB = 1e9; in brackets what does not fit. Estimated from one step without storage, not measured."


def main(cfg: DictConfig) -> None:
    """Prints the parts, what settings save, and devices by strategy; or writes the last into a page."""
    asked = [word for word in HydraConfig.get().overrides.task if not word.startswith("memory.")]
    name = HydraConfig.get().runtime.choices["experiment"]
    own = memory_run(cfg)
    related = {each: memory_run(cfg_of(asked, each)) for each in relatives(name)}
    page = cfg.memory.write
    if page is not None:
        if own.capacity is None:
            raise ConfigError(f"memory.write={page}: the table is of GPUs; choose some, such as hardware=rtx4090")
        words = " ".join([*(word for word in asked if "paths." not in word), f"memory.write={page}"])
        told = f"{NOTE}\nWritten by `python -m launchers.memory {words}`, each device {size(own.capacity)}."
        write(ROOT / page, f"{told}\n\n{by_devices({name: own, **related})}")
        return
    print(f"\n{name}, {cfg.hw}, {own.devices} x {own.strategy}, micro-batch {own.tree['micro']}\n\n{by_part(own)}\n")
    print(f"{by_setting(own, {**fractions(asked, cfg), **related})}\n")
    if own.capacity is not None:
        print(f"{by_devices({name: own})}\n\n{NOTE}")


if __name__ == "__main__":
    sys.argv[1:1] = LOOK
    run(main, config_name="config")
