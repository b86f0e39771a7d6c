"""Fixed rows are answered at each validation and written with their frames; training does not notice."""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from common.callbacks.answers import Answers
from common.files import read_jsonl
from common.loggers import read_metrics
from common.video.decode import VideoReadError
from launchers import generate, train
from launchers.command import compose
from tests.common.callbacks.toy_run import Toy, fit

ROOT = Path(__file__).resolve().parents[3]
SMALL = [
    "steps=4",
    "validate_every=2",
    "batch.global=8",
    "batch.micro=4",
    "prepare=[]",
    "callbacks.metrics_log.every=1",
]


@pytest.fixture(scope="module")
def answered(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that answers."""
    run = tmp_path_factory.mktemp("answers")
    train.main(compose("experiment=video_chatgpt_tiny", *SMALL, f"paths.data='{shapes}'", f"paths.run='{run}'"))
    return run


def losses(run: Path) -> dict[str, dict[int, float]]:
    return {name: steps for name, steps in read_metrics(run / "metrics.csv").items() if name.endswith("loss")}


def test_every_validation_writes_the_same_rows(answered: Path, shapes: Path) -> None:
    files = sorted((answered / "samples").glob("*.jsonl"))
    assert [path.name for path in files] == ["step_0000002.jsonl", "step_0000004.jsonl"]
    lines = [read_jsonl(path) for path in files]
    assert [line["id"] for line in lines[0]] == [line["id"] for line in lines[1]]
    assert len(lines[0]) == 4
    for line in lines[0]:
        assert (shapes / "shapes" / line["video"]).is_file()
        assert all(isinstance(line[name], str) for name in ("question", "answer", "pred"))
        assert "<video>" not in line["question"]


def test_the_frames_are_a_picture(answered: Path) -> None:
    pictures = sorted(path.name for path in (answered / "samples").glob("*.png"))
    assert pictures == [f"row_000{number}.png" for number in range(4)]
    with Image.open(answered / "samples" / "row_0000.png") as picture:
        assert picture.size[0] > 64
        assert len(picture.getcolors(maxcolors=1 << 20) or []) > 2  # objects on a ground


def test_the_answers_are_those_that_generate_gives(answered: Path, shapes: Path, tmp_path: Path) -> None:
    where = [f"paths.data='{shapes}'", f"paths.run='{tmp_path}'", f"ckpt={answered}", "request.count=4"]
    rows = [f"data.predict.annotations='{shapes}/shapes/chat/val.json'", "+data.predict.novel=false"]
    generate.main(compose("experiment=video_chatgpt_tiny", *SMALL, *where, *rows))
    keys = ("id", "question", "answer", "pred")
    told = [[line[key] for key in keys] for line in read_jsonl(tmp_path / "generated.jsonl")]
    assert told == [[line[key] for key in keys] for line in read_jsonl(answered / "samples" / "step_0000004.jsonl")]


def test_training_is_the_same_without(answered: Path, shapes: Path, tmp_path: Path) -> None:
    where = [f"paths.data='{shapes}'", f"paths.run='{tmp_path}'"]
    train.main(compose("experiment=video_chatgpt_tiny", "callbacks=default", *SMALL, *where))
    assert not (tmp_path / "samples").exists()
    assert losses(tmp_path) == losses(answered)


# Of any method


class Rows:
    def __init__(self, count: int = 2) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def shown(self, number: int) -> torch.Tensor | None:
        if number == 1:
            raise VideoReadError("clip.mp4", "it is not there")
        return None if number == 2 else torch.zeros(3, 3, 8, 8, dtype=torch.uint8)


class Speaker(Toy):
    """Answers with a random number, and looks at its mode."""

    def answer_rows(self, rows: Any, numbers: Sequence[int]) -> list[dict[str, str | None]]:
        assert not self.training
        assert not torch.is_grad_enabled()
        said = [str(float(torch.rand(()))) for _ in numbers]
        return [
            {"id": f"a{n}", "video": None, "question": "q", "answer": "t", "pred": s}
            for n, s in zip(numbers, said, strict=True)
        ]


def trainer_of(rows: Rows, *loggers: Any) -> Any:
    return SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        sanity_checking=False,
        datamodule=SimpleNamespace(rows=lambda split: {"val": rows}[split]),
        is_global_zero=True,
        global_step=7,
        loggers=loggers,
        precision_plugin=SimpleNamespace(val_step_context=torch.no_grad),
    )


def test_no_random_number_is_taken_from_training(tmp_path: Path) -> None:
    module = Speaker().eval()
    before = torch.get_rng_state()
    Answers(run=str(tmp_path), count=1).on_validation_epoch_end(trainer_of(Rows()), module)
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_without_a_clip_are_answered_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="common.callbacks.answers"):
        Answers(run=str(tmp_path), count=9).on_validation_epoch_end(trainer_of(Rows(3)), Speaker().eval())
    assert "no picture of validation row 1" in caplog.text
    assert "clip.mp4" in caplog.text
    assert "row 2" not in caplog.text  # text alone: there is nothing to show
    assert [path.name for path in (tmp_path / "samples").glob("*.png")] == ["row_0000.png"]
    assert len(read_jsonl(tmp_path / "samples" / "step_0000007.jsonl")) == 3


def test_tensorboard_gets_text_and_frames(tmp_path: Path) -> None:
    logger = TensorBoardLogger(save_dir=str(tmp_path), name="tb", version="")
    trainer = trainer_of(Rows(1), logger)
    answers = Answers(run=str(tmp_path), count=1)
    for _ in range(2):
        answers.on_validation_epoch_end(trainer, Speaker().eval())
    logger.experiment.flush()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert len(events.Tensors("samples/a0/text_summary")) == 2
    assert b"**answer**: t" in events.Tensors("samples/a0/text_summary")[0].tensor_proto.string_val[0]
    assert len(events.Images("samples/row_0000")) == 1  # once per start


def test_a_method_that_does_not_answer_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Toy does not answer .*callbacks=default"):
        fit(tmp_path, Answers(run=str(tmp_path), count=1))


@pytest.mark.slow
def test_two_processes_answer_once(shapes: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launchers.train", "experiment=video_chatgpt_tiny", *SMALL]
    where = [f"paths.data={shapes}", f"paths.outputs={tmp_path}", "trainer.devices=2", "trainer.strategy=ddp"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *where], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (tmp_path / "video_chatgpt_tiny").iterdir()
    for step in (2, 4):
        assert len(read_jsonl(run / "samples" / f"step_000000{step}.jsonl")) == 4
