"""python -m launchers.generate ckpt=last [request.video=<file> request.prompt=<text>]: what a trained model answers."""

import logging
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from common.config import build, check
from common.files import write_jsonl
from launchers.command import prepare, run
from launchers.trained import checkpoint_of, tester, trained_module

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Answers the request, prints the answers and writes `generated.jsonl`."""
    check(cfg)
    checkpoint = checkpoint_of(cfg, cfg.ckpt)
    prepare(cfg.prepare, paths=cfg.paths)
    module, data = trained_module(cfg, checkpoint), build(cfg.data)
    batches = tester(cfg).predict(module, datamodule=data)
    assert batches is not None
    rows = [row for batch in batches for row in batch]
    table = Table(*rows[0], title=str(checkpoint or "untrained"))
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)
    path = Path(cfg.paths.run) / "generated.jsonl"
    write_jsonl(path, rows)
    log.info("wrote %s", path)


if __name__ == "__main__":
    run(main, config_name="config")
