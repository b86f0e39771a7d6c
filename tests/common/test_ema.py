"""The average of what trains: its recursion, what validation sees, and what a checkpoint holds."""

from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.checkpoint import CheckpointError
from common.ema import Ema, weights_of


class Line(LightningModule):
    """One trained number and one frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.fixed = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1), requires_grad=False)
        self.after_step: list[float] = []
        self.seen: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.slope * self.fixed - 1).square().sum()

    def on_train_batch_end(self, *_: Any) -> None:
        self.after_step.append(self.slope.item())

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.seen.append(self.slope.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.slope], lr=0.2)


def fit(ema: Ema, *, steps: int, accumulate: int = 1) -> Line:
    rows = DataLoader(torch.zeros(steps * accumulate, 1))
    module = Line()
    trainer = Trainer(
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        callbacks=[ema],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=accumulate,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, rows, DataLoader(torch.zeros(1, 1)))
    return module


def averages(weights: list[float], decay: float, every: int = 1) -> list[float]:
    value, values = 0.0, []
    for step, weight in enumerate(weights, start=1):
        if step % every == 0:
            share = min(decay, (1 + step) / (10 + step)) ** every
            value = share * value + (1 - share) * weight
        values.append(value)
    return values


@pytest.mark.parametrize("every", [1, 2])
def test_validation_sees_the_average_and_training_goes_on_from_the_weights(every: int) -> None:
    ema = Ema(decay=0.5, every=every)
    module = fit(ema, steps=6)
    alone = [1 - 0.6**step for step in range(1, 7)]  # gradient descent on (w - 1)^2 with rate 0.2
    assert module.after_step == pytest.approx(alone)
    assert module.seen == pytest.approx(averages(alone, 0.5, every))
    assert float(ema.state_dict()["shadow"]["slope"]) == pytest.approx(averages(alone, 0.5, every)[-1])


def test_it_counts_optimizer_steps_not_micro_batches() -> None:
    ema = Ema(decay=0.5)
    module = fit(ema, steps=4, accumulate=3)
    alone = [1 - 0.6**step for step in range(1, 5)]
    assert module.seen == pytest.approx(averages(alone, 0.5))


def test_only_what_trains_is_averaged() -> None:
    ema = Ema(decay=0.5)
    fit(ema, steps=2)
    assert list(ema.state_dict()["shadow"]) == ["slope"]


def test_a_restored_average_of_other_parameters_is_refused() -> None:
    ema = Ema(decay=0.5)
    ema.load_state_dict({"shadow": {"other": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match="averages other parameters"):
        fit(ema, steps=2)


def test_a_restored_average_goes_on() -> None:
    ema = Ema(decay=0.5)
    ema.load_state_dict({"shadow": {"slope": torch.full((1,), 8.0)}})
    module = fit(ema, steps=1)
    share = 2 / 11
    assert module.seen == pytest.approx([share * 8.0 + (1 - share) * 0.4])


def test_which_weights_of_a_checkpoint() -> None:
    raw, average = torch.zeros(1), torch.ones(1)
    content = {"state_dict": {"slope": raw}, "callbacks": {"Ema": {"shadow": {"slope": average}}}}
    assert weights_of(content, "auto", source="x") == ("averaged", {"slope": average})
    assert weights_of(content, "averaged", source="x")[1]["slope"] is average
    assert weights_of(content, "raw", source="x") == ("raw", {"slope": raw})
    plain = {"state_dict": {"slope": raw}, "callbacks": {}}
    assert weights_of(plain, "auto", source="x") == ("raw", {"slope": raw})
    with pytest.raises(CheckpointError, match="holds no average"):
        weights_of(plain, "averaged", source="x")
    with pytest.raises(CheckpointError, match="weights=best: one of auto, averaged, raw"):
        weights_of(plain, "best", source="x")


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"decay=1\.0 must be"):
        Ema(decay=1.0)
    with pytest.raises(ValueError, match="every=0 at least 1"):
        Ema(decay=0.9, every=0)
