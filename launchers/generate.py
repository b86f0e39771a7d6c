"""python -m launchers.generate ckpt=last [request.video=<file> request.prompt=<text>]: what a trained model answers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.chat.terminal import converse
from common.config import ConfigError, build
from common.data.module import StreamData
from common.files import write_jsonl
from launchers.command import prepare, run
from launchers.machine import ready
from launchers.trained import checkpoint_of, tester, trained_module

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Answers the request, prints the answers and writes `generated.jsonl`; or talks in the terminal."""
    ready(cfg)
    checkpoint = checkpoint_of(cfg, cfg.ckpt)
    prepare(cfg.prepare, paths=cfg.paths)
    module, data, trainer = trained_module(cfg, checkpoint), build(cfg.data), tester(cfg)
    if cfg.request.chat:
        return talk(module, data, trainer, video=cfg.request.video)
    batches = trainer.predict(module, datamodule=data)
    assert batches is not None
    rows = [row for batch in batches for row in batch]
    Console().print(table(rows, title=str(checkpoint or "untrained")))
    shard = f"_{trainer.global_rank}" if trainer.world_size > 1 else ""  # each process has answered its share
    path = Path(cfg.paths.run) / f"generated{shard}.jsonl"
    write_jsonl(path, rows)
    log.info("wrote %s", path)


def table(rows: Sequence[Mapping[str, Any]], *, title: str) -> Table:
    """Answers as they are shown."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    shown = Table(*columns, title=title)
    for row in rows:
        shown.add_row(*("" if row.get(name) is None else escape(str(row[name])) for name in columns))
    return shown


def talk(module: LightningModule, data: StreamData, trainer: Trainer, *, video: str | None) -> None:
    """Questions and answers in the terminal, on the device and in the precision of the trainer."""
    if not hasattr(module, "reply"):
        raise ConfigError(f"request.chat=true: {type(module).__name__} answers no questions; leave it out")
    rows = data.rows("predict")
    module.to(trainer.strategy.root_device).eval()
    reply: Callable[..., str] = module.reply  # type: ignore[assignment]
    with trainer.precision_plugin.forward_context(), torch.inference_mode():
        converse(lambda name, turns: reply(rows, name, turns), video=video, console=Console())


if __name__ == "__main__":
    run(main, config_name="config")
