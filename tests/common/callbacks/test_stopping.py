"""A signal stops a run between two steps or two batches of a validation, and what it interrupts is made up for."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from common.callbacks.stopping import EXIT_STOPPED, StopOnSignal
from common.checkpoint import committed, load_file, read_manifest
from common.ema import Ema
from tests.common.callbacks.toy_run import Numbers, Toy, fit


class Watch(Callback):
    """Counts the batches of each validation, and sends SIGTERM.

    Args:
        in_step: at the beginning of this step, counted from 1.
        in_validation: of this step, in a batch of it.
        batch: that one, counted from 0.
    """

    def __init__(self, *, in_step: int | None = None, in_validation: int | None = None, batch: int = 0) -> None:
        self.in_step, self.in_validation, self.batch = in_step, in_validation, batch
        self.batches: dict[int, int] = {}

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step + 1 == self.in_step:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches[trainer.global_step] = self.batches.get(trainer.global_step, 0) + 1
        if (trainer.global_step, batch_idx) == (self.in_validation, self.batch):
            os.kill(os.getpid(), signal.SIGTERM)


def run(folder: Path, watch: Watch, *, ckpt: Path | None = None) -> None:
    """Six steps from the same weights, an average of them; a validation of two batches after every second."""
    torch.manual_seed(0)
    fit(folder, Ema(decay=0.5), watch, StopOnSignal(), ckpt=ckpt)


def stop(folder: Path, watch: Watch, *, ckpt: Path | None = None) -> Path:
    """Runs until the signal; the newest checkpoint."""
    with pytest.raises(SystemExit) as ended:
        run(folder, watch, ckpt=ckpt)
    assert ended.value.code == EXIT_STOPPED
    return newest(folder)


def newest(folder: Path) -> Path:
    return committed(folder / "checkpoints")[-1]


def assert_same(ours: Path, reference: Path) -> None:
    """Weights, moments and average, bit for bit."""
    mine, theirs = load_file(ours), load_file(reference)
    for name, value in theirs["state_dict"].items():
        assert torch.equal(mine["state_dict"][name], value), name
        assert torch.equal(mine["callbacks"]["Ema"]["shadow"][name], theirs["callbacks"]["Ema"]["shadow"][name]), name
        assert not torch.equal(value, theirs["callbacks"]["Ema"]["shadow"][name])  # or they could be mistaken
    for number, moments in theirs["optimizer_states"][0]["state"].items():
        for name, value in moments.items():
            assert torch.equal(mine["optimizer_states"][0]["state"][number][name], value), (number, name)


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints of a run that nobody stops."""
    folder = tmp_path_factory.mktemp("unharmed")
    run(folder, Watch())
    kept = committed(folder / "checkpoints")
    assert [path.name for path in kept] == ["step_0000004.ckpt", "step_0000006.ckpt"]
    return kept


@pytest.mark.parametrize(
    ("watch", "seen"),
    [(Watch(in_step=4), {2: 2}), (Watch(in_validation=4), {2: 2, 4: 1})],
    ids=["before the validation", "in the validation"],
)
def test_a_validation_that_was_not_done_is_made_up_for_as_a_whole(
    watch: Watch, seen: dict[int, int], unharmed: list[Path], tmp_path: Path
) -> None:
    saved, second = stop(tmp_path, watch), Watch()
    assert watch.batches == seen
    assert saved.name == "step_0000004.ckpt"
    assert read_manifest(saved).score is None
    assert_same(saved, unharmed[0])
    run(tmp_path, second, ckpt=saved)
    assert second.batches == {4: 2, 6: 2}
    assert read_manifest(saved).score == read_manifest(unharmed[0]).score
    assert_same(newest(tmp_path), unharmed[1])


def test_a_validation_that_is_made_up_for_can_be_stopped_too(unharmed: list[Path], tmp_path: Path) -> None:
    saved, second = stop(tmp_path, Watch(in_step=4)), Watch(in_validation=4)
    assert stop(tmp_path, second, ckpt=saved) == saved
    assert second.batches == {4: 1}
    run(tmp_path, Watch(), ckpt=saved)
    assert_same(newest(tmp_path), unharmed[1])


def test_in_the_last_batch_of_a_validation_it_ends_and_the_next_step_is_saved(tmp_path: Path) -> None:
    watch = Watch(in_validation=4, batch=1)
    saved = stop(tmp_path, watch)
    assert saved.name == "step_0000005.ckpt"
    assert read_manifest(saved.with_name("step_0000004.ckpt")).score is not None


def test_the_last_validation_is_not_broken_off(unharmed: list[Path], tmp_path: Path) -> None:
    watch = Watch(in_validation=6)
    run(tmp_path, watch)
    assert watch.batches[6] == 2
    assert read_manifest(newest(tmp_path)).score == read_manifest(unharmed[1]).score


def test_a_run_that_saves_nothing_stops_as_well(tmp_path: Path) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=6,
        callbacks=[Watch(in_step=3), StopOnSignal()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with pytest.raises(SystemExit) as ended:
        trainer.fit(Toy(), datamodule=Numbers())
    assert ended.value.code == EXIT_STOPPED
    assert trainer.global_step == 3
