"""python -m launchers.doctor experiment=<name> hardware=<name>: what is missing or too small, before it is queued."""

import sys
from collections.abc import Iterator

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from common.config import ROOT, check, plain
from common.doctor.devices import gpu_rows, gpus
from common.doctor.files import file_rows, place_of
from common.doctor.packages import extras_of, package_rows
from common.doctor.room import room_rows
from common.doctor.row import Row, Status, as_table, worst
from common.doctor.services import hub_row, slurm_rows, tracker_rows
from common.doctor.sources import written
from common.memory.run import MemoryRun
from launchers.command import EXPECTED, compose, explain, run
from launchers.machine import LOOK, asked_for, claimed, fractions, memory_run, others, unknown_micro_batch


def main(cfg: DictConfig) -> None:
    """Prints the rows; the status is 1 where one of them is FAIL."""
    choices = {str(group): str(choice) for group, choice in HydraConfig.get().runtime.choices.items()}
    rows = list(examine(cfg, choices))
    title = f"experiment={choices['experiment']} hardware={choices['hardware']}"
    Console(width=None if sys.stdout.isatty() else 160).print(as_table(rows, title=title))
    if worst(rows) is Status.FAIL:
        sys.exit(1)


def examine(cfg: DictConfig, choices: dict[str, str]) -> Iterator[Row]:
    """Rows about one run; where its configuration is wrong, about that alone."""
    if unknown_micro_batch(cfg):
        words = f"{cfg.name} is claimed on {', '.join(claimed(cfg))}; looked at with a micro-batch of 1"
        yield Row(Status.WARN, f"micro-batch on {cfg.hw}", words, f"batch.micro_on.{cfg.hw}=1, if it fits")
        cfg.batch.micro = 1
    prepared: dict[str, str] = {}
    try:
        check(cfg)
        for words in cfg.prepare:
            task = compose(*words, f"paths.data='{cfg.paths.data}'", "paths.run=unused", config_name="prepare")
            check(task)
            if path := written(plain(task)["task"], f"{cfg.paths.data}/"):
                prepared[f"{cfg.paths.data}/{path}"] = words[0]
    except EXPECTED as error:
        yield Row(Status.FAIL, "configuration", explain(error, "config"))
        return
    yield Row(Status.PASS, "configuration", f"composes and binds, with {len(cfg.prepare)} preparation tasks")
    tree, here, on_slurm = plain(cfg), gpus(), choices["cluster"] == "slurm"
    yield from file_rows(tree, place_of(tree, choices, prepared))
    yield from room_rows(memory_run(cfg), tree, others=lambda: instead(cfg, choices["experiment"]), gpus=here)
    yield from package_rows(ROOT, extras=extras_of(tree, choices=choices))
    yield from gpu_rows(tree["trainer"], here, elsewhere=on_slurm)
    yield hub_row()
    yield from tracker_rows(choices)
    yield from slurm_rows(tree["slurm"]["partition"]) if on_slurm else ()


def instead(cfg: DictConfig, experiment: str) -> dict[str, MemoryRun]:
    """The run with other settings: more of it recomputed, less of it learned."""
    return {**fractions(asked_for(), cfg, [1.0]), **others(experiment)}


if __name__ == "__main__":
    sys.argv[1:1] = LOOK
    run(main, config_name="config")
