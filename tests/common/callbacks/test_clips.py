"""Fixed captions are sampled at each validation and written as clips; training does not notice."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from torch import Tensor

from common.callbacks.clips import Clips, SampledClip, sheet_of
from common.callbacks.pictures import GAP, LINE
from common.video.decode import probe, read
from tests.common.callbacks import toy_run
from tests.common.callbacks.toy_run import Toy, fit

SIDE = 96  # 32 pixels grow threefold


def rising(first: int, frames: int = 16, size: int = 32) -> Tensor:
    """Each frame is one grey, a little lighter than the one before."""
    return (first + torch.arange(frames, dtype=torch.uint8))[:, None, None, None].expand(frames, 3, size, size)


class Painter(Toy):
    """Samples a random grey, and looks at its mode."""

    def predict_clips(self, rows: Any, numbers: Sequence[int]) -> list[SampledClip]:
        assert not self.training
        assert not torch.is_grad_enabled()
        return [SampledClip(rows[n], rising(10), rising(int(torch.randint(100, 200, ()))), 8.0) for n in numbers]


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


def test_a_sheet_shows_the_truth_above_the_sample_at_the_same_times() -> None:
    sheet = np.asarray(sheet_of(SampledClip("a dog runs", rising(10), rising(100), 8.0)))
    assert sheet.shape == (3 * LINE + 2 * SIDE, 8 * (SIDE + GAP) - GAP, 3)
    for top, first in ((2 * LINE, 10), (3 * LINE + SIDE, 100)):
        shown = [int(sheet[top + SIDE // 2, place * (SIDE + GAP) + 5, 0]) for place in range(8)]
        assert (shown[0], shown[-1]) == (first, first + 15)  # the first and the last frame are there
        assert shown == sorted(shown)
    assert (sheet[:LINE] < 128).any()  # the caption


def test_clips_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pred is \(8, 3, 32, 32\).*F=16"):
        sheet_of(SampledClip("a dog runs", rising(10), rising(10, frames=8), 8.0))


def test_every_validation_writes_its_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_run, "Toy", Painter)
    monkeypatch.setattr(toy_run.Numbers, "rows", lambda self, split: ["a", "b", "c"], raising=False)
    fit(tmp_path, Clips(run=str(tmp_path), count=2))
    steps = [f"step_000000{step}" for step in (2, 4, 6)]
    names = [name for step in steps for name in (f"{step}.png", f"{step}_row_0000.mp4", f"{step}_row_0001.mp4")]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == names
    with Image.open(tmp_path / "samples" / names[0]) as page:
        assert page.height == 2 * (3 * LINE + 2 * SIDE)
    clip = tmp_path / "samples" / names[1]
    info = probe(clip)
    assert (info.num_frames, info.fps, info.height) == (16, 8.0, 32)
    assert read(clip, [0]).frames.mean() > 90  # the sample, not the truth


def test_no_random_number_is_taken_from_training_and_only_one_rank_writes(tmp_path: Path) -> None:
    module = Painter().eval()
    before = torch.get_rng_state()
    for first in (False, True):
        Clips(run=str(tmp_path), count=9).on_validation_epoch_end(trainer_of(["a"], first=first), module)
        assert (tmp_path / "samples").exists() == first
    assert torch.equal(torch.get_rng_state(), before)


def test_wandb_gets_the_sheets_and_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = WandbLogger(save_dir=str(tmp_path), project="framelab", name="tiny", offline=True)
    logged: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "log_metrics", lambda metrics, step=None: logged.append({"step": step, **metrics}))
    Clips(run=str(tmp_path), count=2).on_validation_epoch_end(trainer_of(["a", "b"], wandb), Painter().eval())
    sheets, clips = logged
    assert sheets["step"] == clips["step"] == 7
    assert [image._caption for image in sheets["samples/frames"]] == ["row_0000", "row_0001"]
    assert [(each._format, each._caption) for each in clips["samples/clips"]] == [
        ("mp4", "row_0000"),
        ("mp4", "row_0001"),
    ]


def test_a_method_that_samples_no_clips_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Toy samples no clips .*callbacks=default"):
        fit(tmp_path, Clips(run=str(tmp_path), count=1))
    with pytest.raises(ValueError, match=r"callbacks\.clips\.count=0"):
        Clips(run=str(tmp_path), count=0)
