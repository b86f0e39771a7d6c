"""The metrics file of a run, append-only, one value a line; what trackers mirror of it, and what else they show."""

import csv
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

COLUMNS = ("step", "name", "value", "time")


class MetricsFile(Logger):
    """Writes `metrics.csv` in long form: step, name, value (full precision), Unix time.

    A resumed run appends; rows of steps that it repeats come later in the file, and `read_metrics` takes the last.
    """

    def __init__(self, *, run: str) -> None:
        """
        Args:
            run: the run folder.
        """
        super().__init__()
        self.path = Path(run) / "metrics.csv"
        self._file: TextIO | None = None

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return self.path.parent.name

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the composed configuration is a file of the run folder."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends a line for each metric and flushes, so that a killed run keeps them."""
        if self._file is None:
            self._file = self._open()
        writer = csv.writer(self._file)
        now = f"{time.time():.3f}"
        writer.writerows([step, name, repr(float(value)), now] for name, value in metrics.items() if name != "epoch")
        self._file.flush()

    def _open(self) -> TextIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_partial_line(self.path)
        file = open(self.path, "a", newline="")  # noqa: SIM115 -- kept open for the run, closed in finalize
        if file.tell() == 0:
            csv.writer(file).writerow(COLUMNS)
        return file

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _drop_partial_line(path: Path) -> None:
    """Cuts what a killed process left of its last line."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """{name: {step: value}} of a metrics file, at any time; of a repeated step the latest row counts."""
    table: dict[str, dict[int, float]] = {}
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]  # a run that was killed leaves a part of a line
    for row in csv.DictReader(whole.splitlines()):
        table.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
    return table


def log_answers(logger: Logger, lines: Sequence[Mapping[str, Any]], *, step: int) -> None:
    """Answers as text, for the trackers that show text.

    Args:
        logger: of a run.
        lines: with `id`, `question`, `answer` and `pred`.
        step: optimizer steps done.
    """
    columns = ["id", "question", "answer", "pred"]
    if isinstance(logger, WandbLogger):
        table = [[line[name] for name in columns] for line in lines]
        logger.log_text("samples", columns=columns, data=table, step=step)
    elif isinstance(logger, TensorBoardLogger):
        for line in lines:
            text = "\n\n".join(f"**{name}**: {line[name]}" for name in columns[1:])
            logger.experiment.add_text(f"samples/{line['id']}", text, step)


def log_sheets(logger: Logger, sheets: Mapping[str, Image.Image], *, step: int) -> None:
    """Pictures by name, for the trackers that show pictures."""
    if isinstance(logger, WandbLogger):
        logger.log_image("samples/frames", images=list(sheets.values()), caption=list(sheets), step=step)
    elif isinstance(logger, TensorBoardLogger):
        for name, sheet in sheets.items():
            logger.experiment.add_image(f"samples/{name}", np.asarray(sheet), step, dataformats="HWC")


def log_clips(logger: Logger, files: Mapping[str, Path], *, step: int) -> None:
    """Video files by name, for the trackers that play them; TensorBoard has frames of them (`log_sheets`)."""
    if isinstance(logger, WandbLogger):
        names, paths = list(files), [str(path) for path in files.values()]
        logger.log_video("samples/clips", videos=paths, step=step, caption=names, format=["mp4"] * len(names))


def described(loggers: Sequence[Logger], run: Path) -> str:
    """One line that says where a run writes: its folder, the metrics file, and which trackers are on."""
    parts = [_described(logger) for logger in loggers]
    if not any(isinstance(logger, WandbLogger) for logger in loggers):
        parts.append("W&B off (logger=wandb turns it on)")
    return f"run folder: {run}; loggers: {'; '.join(parts)}"


def _described(logger: Logger) -> str:
    if isinstance(logger, MetricsFile):
        return f"csv ({logger.path})"
    if isinstance(logger, WandbLogger):
        run = logger.experiment
        if run.disabled:
            return "W&B off (WANDB_MODE=disabled)"
        where = f"offline (wandb sync {Path(run.dir).parent} sends it)" if run.offline else f"online at {run.url}"
        return f"W&B on: {run.project}/{run.name}, {where}"
    if isinstance(logger, TensorBoardLogger):
        return f"TensorBoard (tensorboard --logdir {logger.log_dir})"
    return type(logger).__name__
