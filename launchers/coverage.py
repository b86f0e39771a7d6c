"""python -m launchers.coverage: which method was run on which hardware, into the README.

The runs are those of hardware_runs.json, which `launchers.benchmark benchmark.record=hardware_runs.json` adds to. So a
machine that is new, such as eight A100, comes into the table by running the benchmark there.
"""

from argparse import ArgumentParser

from omegaconf import OmegaConf

from common.benchmark.coverage import BEGIN, END, LEGEND, Claim, rows, runs
from common.config import CONF, ROOT
from common.memory.table import grid, write
from launchers.command import compose
from launchers.machine import claimed

RUNS = ROOT / "hardware_runs.json"
ORDER = ("cpu", "gpu", "rtx4090", "h200", "a100x8", "a100x8_fsdp", "a100x8_zero2")


def main() -> None:
    """Writes the table between its marks."""
    write(ROOT / "README.md", text(), begin=BEGIN, end=END)


def text() -> str:
    """The table, and what its words mean."""
    found = {path.stem: str(OmegaConf.load(path).hw) for path in (CONF / "hardware").glob("*.yaml")}
    hardware = {name: found[name] for name in [*ORDER, *sorted(found.keys() - set(ORDER))]}
    experiments = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
    table = grid(rows({name: claim(name) for name in experiments}, hardware, runs(RUNS)))
    return f"{LEGEND}\nWritten by `python -m launchers.coverage` from `{RUNS.name}`.\n\n{table}"


def claim(experiment: str) -> Claim:
    """The method of an experiment, and where it is claimed to run."""
    cfg = compose(f"experiment={experiment}", "paths.run=unused")
    return Claim(str(cfg.model._target_).split(".")[1], claimed(cfg))


if __name__ == "__main__":
    ArgumentParser(prog="python -m launchers.coverage", description=__doc__).parse_args()  # it takes none
    main()
