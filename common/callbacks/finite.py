"""A loss or a gradient that is not finite ends the run before the optimizer uses it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from common.files import atomic_write_text
from common.gradients import own_gradients
from common.run import NonFiniteError

SHOWN = 16  # samples that the message names; the file names all
RECORD = "non_finite.json"


class Finding(NamedTuple):
    """What one rank found in a step."""

    rank: int
    what: str  # "loss" or "gradients"
    micro_batches: list[int]  # of the step, counted from 0
    samples: list[str]  # ids of the rows of these micro-batches


class FiniteSteps(Callback):
    """Looks at the losses of a step's micro-batches and at its gradients, between the backward pass and the clipping.

    The ranks agree before any of them goes on, so that all stop at the same step, with weights, moments and average as
    they were after the step before. Clipping would hide an infinite gradient: it multiplies all by zero, and DeepSpeed
    leaves such a step out, or takes it unclipped, without a word. With float16 and a loss scale only losses are looked
    at; there gradients overflow by design, and the scaler leaves them out.
    """

    def __init__(self, *, run: str) -> None:
        """
        Args:
            run: the run folder; `non_finite.json` in it lists the samples of a step that stopped the run.
        """
        self.run = Path(run)
        self._micro_batch = 0  # of the step
        self._finite: dict[int, Tensor] = {}  # bool (), of each micro-batch of the step; read once a step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._micro_batch = batch_idx % trainer.accumulate_grad_batches

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._finite[self._micro_batch] = loss.detach().isfinite().all()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        numbers, losses = list(self._finite), torch.stack(list(self._finite.values())).tolist()
        self._finite = {}
        bad = [number for number, finite in zip(numbers, losses, strict=True) if not finite]
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        sound = not bad and (scaled or _finite(own_gradients(trainer, optimizer)))
        if trainer.strategy.reduce_boolean_decision(sound, all=True):
            return
        micro_batches = bad or numbers
        found = None
        if not sound:
            samples = _samples(trainer, micro_batches)
            found = Finding(trainer.global_rank, "loss" if bad else "gradients", micro_batches, samples)
        self._stop(trainer, [each for each in _of_all_ranks(trainer, found) if each is not None])

    def _stop(self, trainer: Trainer, findings: list[Finding]) -> None:
        # A rank with a bad loss hands its gradients to the others; they have nothing to tell.
        findings = [each for each in findings if each.what == "loss"] or findings
        step = trainer.global_step + 1
        if trainer.is_global_zero:
            record = {"step": step, "findings": [each._asdict() for each in findings]}
            atomic_write_text(self.run / RECORD, json.dumps(record, indent=2) + "\n")
        told = "; ".join(_told(each) for each in findings)
        raise NonFiniteError(
            f"step {step} is not finite: {told}. The optimizer has not used it, and the checkpoint before it stays. "
            f"{self.run / RECORD} names all samples; look at them, or go on with a smaller learning rate by init="
        )


def _finite(gradients: list[Tensor]) -> bool:
    return bool(get_total_norm(gradients).isfinite())


def _samples(trainer: Trainer, micro_batches: list[int]) -> list[str]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return [name for number in micro_batches for name in data.samples_of(trainer.global_step, number)]


def _of_all_ranks(trainer: Trainer, own: Any) -> list[Any]:
    """An object of each rank."""
    if trainer.world_size == 1:
        return [own]
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def _told(found: Finding) -> str:
    names = ", ".join(found.samples[:SHOWN])
    more = f" and {len(found.samples) - SHOWN} more" if len(found.samples) > SHOWN else ""
    which = ", ".join(str(number + 1) for number in found.micro_batches)
    where = f"micro-batch {which}" if len(found.micro_batches) == 1 else f"micro-batches {which}"
    return f"{found.what} of rank {found.rank}, {where}, samples {names}{more}"
