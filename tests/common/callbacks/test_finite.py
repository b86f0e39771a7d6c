"""A step that is not finite stops the run before the optimizer, and says which samples it was made of."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from common.callbacks.finite import RECORD, FiniteSteps
from common.checkpoint import committed, load_file
from common.run import NonFiniteError
from tests.common.callbacks.toy_run import Toy, fit


class Spoil(Callback):
    """Makes the loss of a step, or one number of its gradients, something that is not finite."""

    def __init__(self, *, step: int, value: float, gradients: bool = False) -> None:
        self.step, self.value, self.gradients = step, value, gradients
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []
        self.steps = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.before = [each.detach().clone() for each in pl_module.parameters()]
            if not self.gradients:
                pl_module.layer.bias.grad = None
                pl_module.scale = self.value

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == self.step and self.gradients:
            pl_module.layer.weight.grad[3, 5] = self.value

    def on_before_zero_grad(self, *_: Any) -> None:
        self.steps += 1

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.after = [each.detach().clone() for each in pl_module.parameters()]


@pytest.fixture(autouse=True)
def scaled_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def training_step(self: Toy, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layer(self.frozen(batch[0])).square().mean() * getattr(self, "scale", 1.0)

    monkeypatch.setattr(Toy, "training_step", training_step)
    monkeypatch.setattr(Toy, "validation_step", lambda self, *_: self.log("val/loss", torch.ones(()), logger=False))


@pytest.mark.parametrize("gradients", [False, True], ids=["loss", "gradients"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_it_stops_before_the_optimizer_uses_it(gradients: bool, value: float, tmp_path: Path) -> None:
    spoil = Spoil(step=3, value=value, gradients=gradients)
    with pytest.raises(NonFiniteError, match="step 4 is not finite") as stopped:
        fit(tmp_path, spoil, FiniteSteps(run=str(tmp_path)))
    found = {"rank": 0, "what": "gradients" if gradients else "loss", "micro_batches": [0]}
    samples = ["row 6 of micro-batch 0", "row 7 of micro-batch 0"]
    record = json.loads((tmp_path / RECORD).read_text())
    assert record == {"step": 4, "findings": [{**found, "samples": samples}]}
    assert ", ".join(samples) in str(stopped.value)
    assert all(torch.equal(*pair) for pair in zip(spoil.before, spoil.after, strict=True))
    (kept,) = committed(tmp_path / "checkpoints")
    assert load_file(kept)["global_step"] == 2


def test_a_run_that_is_finite_goes_through(tmp_path: Path) -> None:
    fit(tmp_path, FiniteSteps(run=str(tmp_path)))
    assert committed(tmp_path / "checkpoints")[-1].name == "step_0000006.ckpt"
    assert not (tmp_path / RECORD).exists()
