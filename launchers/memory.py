"""python -m launchers.memory experiment=<name> hardware=<name>: what each device needs, before anything is built."""

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from common.config import ROOT
from common.memory.table import by_devices, by_part, by_setting, size, write
from launchers.command import run
from launchers.machine import cfg_of, fractions, memory_run, relatives

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


if __name__ == "__main__":
    run(main, config_name="config")
