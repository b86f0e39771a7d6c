"""Fixed rows are predicted at each validation and written as pictures; training does not notice."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from common.callbacks.pictures import BREAK, GAP, LINE, Picture, Pictures, line_of
from tests.common.callbacks import toy_run
from tests.common.callbacks.toy_run import Toy, fit


def plain(value: int, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.uint8)


def picture(title: str = "make it red", frames: int = 20, size: int = 32) -> Picture:
    history = torch.arange(frames, dtype=torch.uint8)[:, None, None, None].expand(frames, 3, size, size)
    return Picture(title, history, plain(120, 3, size, size), plain(200, 3, size, size))


class Painter(Toy):
    """Predicts a random grey, and looks at its mode."""

    def predict_pictures(self, rows: Any, numbers: Sequence[int]) -> list[Picture]:
        assert not self.training
        assert not torch.is_grad_enabled()
        made = picture()
        return [made._replace(pred=plain(int(torch.randint(256, ())), 3, 32, 32), title=str(rows[n])) for n in numbers]


def trainer_of(rows: Sequence[str], *loggers: Any, first: bool = True) -> Any:
    return SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        sanity_checking=False,
        datamodule=SimpleNamespace(rows=lambda split: {"val": rows}[split]),
        is_global_zero=first,
        global_step=7,
        loggers=loggers,
        precision_plugin=SimpleNamespace(val_step_context=torch.no_grad),
    )


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "samples").glob("*"))


def test_a_line_shows_history_truth_and_prediction_in_this_order() -> None:
    line = np.asarray(line_of(picture()))
    side = 96  # 32 pixels grow threefold
    assert line.shape == (2 * LINE + side, 10 * side + 9 * GAP + BREAK, 3)
    middle = line[2 * LINE + side // 2, :, 0]
    history = [int(middle[place * (side + GAP) + 5]) for place in range(8)]
    assert history[0] == 0
    assert history[-1] == 19  # the newest frame is there
    assert history == sorted(history)
    assert int(middle[8 * (side + GAP) + BREAK + 5]) == 120
    assert int(middle[-5]) == 200
    assert (line[:LINE] < 128).any()  # text
    assert (middle[7 * (side + GAP) + side :][:GAP] == 255).all()


def test_a_line_of_one_frame_and_of_large_frames() -> None:
    assert line_of(picture(frames=1)).width == 3 * 96 + 2 * GAP + BREAK
    assert line_of(picture(frames=2, size=256)).height == 2 * LINE + 160


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pred is \(3, 16, 16\).*H=32"):
        line_of(picture()._replace(pred=plain(0, 3, 16, 16)))


def test_every_validation_writes_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_run, "Toy", Painter)
    monkeypatch.setattr(toy_run.Numbers, "rows", lambda self, split: ["a", "b", "c"], raising=False)
    fit(tmp_path, Pictures(run=str(tmp_path), count=2))
    assert written(tmp_path) == [f"step_000000{step}.png" for step in (2, 4, 6)]
    with Image.open(tmp_path / "samples" / "step_0000002.png") as page:
        assert page.height == 2 * (2 * LINE + 96)


def test_no_random_number_is_taken_from_training_and_only_one_rank_writes(tmp_path: Path) -> None:
    module = Painter().eval()
    before = torch.get_rng_state()
    for first in (False, True):
        Pictures(run=str(tmp_path), count=9).on_validation_epoch_end(trainer_of(["a"], first=first), module)
        assert (tmp_path / "samples").exists() == first
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_written_while_the_run_is_checked_for_sanity_or_tested(tmp_path: Path) -> None:
    trainer = trainer_of(["a"])
    trainer.sanity_checking = True
    Pictures(run=str(tmp_path), count=1).on_validation_epoch_end(trainer, Painter().eval())
    trainer.sanity_checking, trainer.state.fn = False, "validate"
    Pictures(run=str(tmp_path), count=1).on_validation_epoch_end(trainer, Painter().eval())
    assert not (tmp_path / "samples").exists()


def test_trackers_get_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    board = TensorBoardLogger(save_dir=str(tmp_path), name="tb", version="")
    wandb = WandbLogger(save_dir=str(tmp_path), project="framelab", name="tiny", offline=True)
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "log_image", lambda key, **options: shown.append({"key": key, **options}))
    callback = Pictures(run=str(tmp_path), count=2)
    callback.on_validation_epoch_end(trainer_of(["a", "b"], board, wandb), Painter().eval())
    board.experiment.flush()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(board.log_dir)
    events.Reload()
    assert [len(events.Images(f"samples/row_000{number}")) for number in (0, 1)] == [1, 1]
    (call,) = shown
    assert call["caption"] == ["row_0000", "row_0001"]
    assert call["step"] == 7
    assert [image.height for image in call["images"]] == [2 * LINE + 96] * 2


def test_a_method_that_predicts_no_pictures_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Toy predicts no pictures .*callbacks=default"):
        fit(tmp_path, Pictures(run=str(tmp_path), count=1))
    with pytest.raises(ValueError, match=r"callbacks\.pictures\.count=0"):
        Pictures(run=str(tmp_path), count=0)
