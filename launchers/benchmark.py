"""python -m launchers.benchmark experiment=<name> hardware=<name>: how fast a training step is, with random weights."""

import json
import logging
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning import seed_everything
from omegaconf import DictConfig

from common.benchmark.coverage import add
from common.benchmark.record import read, refuse_other, slower, table
from common.benchmark.subject import Subject
from common.config import ROOT, ConfigError, plain
from common.environment import set_timeout
from common.files import atomic_write_text
from common.jobs import code_of
from common.memory.table import grid
from common.run import PACKAGES
from launchers.command import prepare, run
from launchers.machine import chosen, memory_run, ready
from launchers.start import trainer_of

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Trains a few steps, then prints and writes what they took; the status is 1 where it is more than allowed."""
    ready(cfg)
    tree = plain(cfg)
    subject, asked = Subject(tree), tree["benchmark"]
    before = read(Path(asked["against"])) if asked["against"] else None
    if before is None and asked["slower"] is not None:
        raise ConfigError(f"benchmark.slower={asked['slower']} of what? give benchmark.against=<a benchmark.json>")
    code = made()
    if asked["record"] is not None and code["dirty"] is not False:
        raise ConfigError("benchmark.record: a recorded run names the commit that it is of; commit first")
    if asked["data"] == "real":
        prepare(cfg.prepare, paths=cfg.paths)
    seed_everything(cfg.seed, verbose=False)
    trainer = trainer_of(cfg, **subject.trainer_keys())
    what = subject.what(trainer, experiment=str(chosen("experiment")), hardware=str(chosen("hardware")))
    if before is not None:
        refuse_other(before, what)
    set_timeout(trainer.strategy)
    data, module = subject.data(trainer.accumulate_grad_batches), subject.module()
    trainer.fit(module, data)
    if not trainer.is_global_zero:
        return
    record = {"what": what, **code, "figures": subject.figures(trainer, memory_run(cfg))}
    path = Path(asked["write"])
    atomic_write_text(path, json.dumps(record, indent=2) + "\n")
    if asked["record"] is not None:
        add(ROOT / asked["record"], record)
    where = f"{what['devices'] * what['nodes']} x {what['device']}, {what['strategy']}, {what['precision']}"
    print(f"\n{what['experiment']}, {where}, micro-batch {what['micro']} of {what['global']}\n")
    print(f"{grid(table(record, before))}\n")
    log.info("wrote %s", path)
    if before is not None and asked["slower"] is not None and (why := slower(record, before, by=asked["slower"])):
        sys.exit(f"error: {why}")


def made() -> dict[str, Any]:
    """By what, and when."""
    code = code_of(ROOT)
    dirty = None if code.revision is None else code.changes is not None  # of what runs: a record that is added is not
    packages = {package: version(package) for package in PACKAGES}
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return {"revision": code.revision, "dirty": dirty, "time": time, "packages": packages}


if __name__ == "__main__":
    run(main, config_name="config")
