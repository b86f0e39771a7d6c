"""metrics.csv is append-only and survives a kill; W&B offline mirrors it and a resumed run keeps its id."""

from pathlib import Path

import pytest
from lightning.pytorch.loggers import WandbLogger

from common.loggers import MetricsFile, read_metrics


def test_values_keep_full_precision_and_a_resumed_run_appends(tmp_path: Path) -> None:
    first = MetricsFile(run=str(tmp_path))
    first.log_metrics({"train/loss": 1 / 3, "epoch": 0}, step=1)
    first.log_metrics({"train/loss": 0.1, "val/loss": 2.0}, step=2)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("3,train/lo")  # killed in the middle of a line
    second = MetricsFile(run=str(tmp_path))
    second.log_metrics({"train/loss": 0.2}, step=2)
    assert read_metrics(tmp_path / "metrics.csv") == {"train/loss": {1: 1 / 3, 2: 0.2}, "val/loss": {2: 2.0}}
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 5


def test_wandb_offline_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step in (1, 2):
        logger = WandbLogger(project="framelab", id="tiny-2026", save_dir=str(tmp_path), resume="allow")
        logger.log_metrics({"train/loss": 1.0 / step}, step=step)
        assert logger.experiment.id == "tiny-2026"
        logger.experiment.finish()
    folders = list(tmp_path.glob("wandb/offline-run-*-tiny-2026"))
    assert folders
    assert all(list(folder.glob("run-tiny-2026.wandb")) for folder in folders)
