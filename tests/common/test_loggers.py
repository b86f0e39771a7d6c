"""metrics.csv is append-only and survives a kill; W&B offline mirrors it, keeps its id, and is said to be on or off."""

import json
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image

from common.loggers import MetricsFile, described, log_answers, log_sheets, read_metrics


def test_values_keep_full_precision_and_a_resumed_run_appends(tmp_path: Path) -> None:
    first = MetricsFile(run=str(tmp_path))
    first.log_metrics({"train/loss": 1 / 3, "epoch": 0}, step=1)
    first.log_metrics({"train/loss": 0.1, "val/loss": 2.0}, step=2)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("3,train/lo")  # killed in the middle of a line
    assert read_metrics(tmp_path / "metrics.csv") == {"train/loss": {1: 1 / 3, 2: 0.1}, "val/loss": {2: 2.0}}
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


def test_the_first_line_says_where_a_run_writes_and_that_wandb_is_off(tmp_path: Path) -> None:
    line = described([MetricsFile(run=str(tmp_path))], tmp_path)
    assert line == (
        f"run folder: {tmp_path}; loggers: csv ({tmp_path}/metrics.csv); W&B off (logger=wandb turns it on)"
    )
    assert "TensorBoard (tensorboard --logdir" in described([TensorBoardLogger(str(tmp_path))], tmp_path)


@pytest.mark.parametrize(
    ("mode", "said"),
    [("offline", "W&B on: framelab/tiny, offline (wandb sync "), ("disabled", "W&B off (WANDB_MODE=disabled)")],
)
def test_the_first_line_says_in_which_mode_wandb_is(mode: str, said: str, tmp_path: Path) -> None:
    logger = WandbLogger(project="framelab", name="tiny", save_dir=str(tmp_path), mode=mode)
    line = described([logger], tmp_path)
    logger.experiment.finish()
    assert said in line
    assert "logger=wandb" not in line


def test_wandb_gets_answers_and_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(project="framelab", save_dir=str(tmp_path))
    log_answers(logger, [{"id": "a", "question": "q", "answer": "t", "pred": None, "video": "v"}], step=3)
    log_sheets(logger, {"row_0000": Image.new("RGB", (8, 8))}, step=3)
    folder = Path(logger.experiment.dir)
    logger.experiment.finish()
    (table,) = folder.rglob("*.table.json")
    assert json.loads(table.read_text()) == {
        "columns": ["id", "question", "answer", "pred"],
        "data": [["a", "q", "t", None]],
    }
    assert list(folder.rglob("*.png"))
