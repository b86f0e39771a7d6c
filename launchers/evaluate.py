"""python -m launchers.evaluate [experiment=<name>] ckpt=last: score a checkpoint beside its controls."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from common.checkpoint import CheckpointError
from common.config import ROOT, build, plain
from common.files import atomic_write_text
from common.metrics.table import Report, as_json, show
from common.run import UNTRAINED, git_state
from launchers.command import prepare, run
from launchers.machine import ready
from launchers.start import is_first
from launchers.trained import checkpoint_of, model_of, tester, trained_module

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Tests the checkpoint on every view and each row of `compare` on the first, then prints and keeps one table."""
    ready(cfg)
    checkpoint = checkpoint_of(cfg, cfg.ckpt)
    compared = {name: other(cfg, name) for name in cfg.compare}
    prepare(cfg.prepare, paths=cfg.paths)
    report = test(cfg, checkpoint, views=None)
    for name, ckpt in compared.items():
        first = next(iter(cfg.data.test))
        report[name] = test(cfg, ckpt, views=[first])[first]
    if not is_first():  # the figures are of all processes
        return
    show(report, title=str(checkpoint or "untrained"))
    path = Path(cfg.paths.run) / "metrics.json"
    revision, dirty = git_state(ROOT)
    record = {
        "checkpoint": str(checkpoint or UNTRAINED),
        "revision": revision,
        "dirty": dirty,
        "rows": as_json(report),
        "config": plain(cfg) | {"model": model_of(cfg, checkpoint)},
    }
    atomic_write_text(path, json.dumps(record, indent=2) + "\n")
    log.info("wrote %s", path)


def other(cfg: DictConfig, name: str) -> Path | None:
    """The checkpoint of a row of `compare`; None for the untrained model.

    Raises:
        CheckpointError: there is none; the row is named, and how to do without it.
    """
    try:
        return checkpoint_of(cfg, cfg.compare[name])
    except CheckpointError as error:
        raise CheckpointError(f"compare.{name}: {error}; ~compare.{name} leaves this row out") from error


def test(cfg: DictConfig, checkpoint: Path | None, *, views: list[str] | None) -> Report:
    """The report of one checkpoint, on all views or on some."""
    node: dict[str, Any] = plain(cfg)["data"]
    if views is not None:
        node["test"] = {view: node["test"][view] for view in views}
    module, data = trained_module(cfg, checkpoint), build(node)
    tester(cfg).test(module, datamodule=data, verbose=False)
    report: Callable[[], Report] = module.report  # type: ignore[assignment]
    return {row: dict(columns) for row, columns in report().items()}


if __name__ == "__main__":
    run(main, config_name="config")
