"""Owns saving, retention and exact resumption; nothing else in the project saves a checkpoint of a run."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from common import checkpoint as files
from common.files import atomic_write_text
from common.run import refuse_stale

log = logging.getLogger(__name__)


class Checkpointing(Callback):
    """Saves what trains, at step boundaries, under a name that appears only when the file is whole.

    Exactness rests on three rules. A checkpoint is taken only between optimizer steps, and after the validation that
    is due at that step. It counts samples, not batches: Lightning's loop counters are rewritten on resumption from the
    number of steps, so that another number of processes or another micro-batch may go on. And it holds exactly the
    parameters that train: any other set of names is refused.
    """

    def __init__(
        self,
        *,
        run: str,
        every: int,
        keep_last: int,
        keep_best: int,
        objective: str,
        direction: str,
        generation: int | None = None,
    ) -> None:
        """
        Args:
            run: the run folder.
            every: optimizer steps between checkpoints; the last step is always saved.
            keep_last: newest checkpoints that stay.
            keep_best: checkpoints that stay for their score.
            objective: name of the validation metric that is the score.
            direction: "min" or "max".
            generation: which start of the run this is; given by the launcher.
        """
        if direction not in ("min", "max"):
            raise ValueError(f"direction={direction}: min or max")
        if keep_last < 1:
            raise ValueError(f"callbacks.checkpointing.keep_last={keep_last}: at least 1, or a run could not go on")
        self.run = Path(run)
        self.folder = self.run / files.FOLDER
        self.every = every
        self.keep_last, self.keep_best = keep_last, keep_best
        self.objective, self.direction = objective, direction
        self.generation = generation
        self._metrics: dict[str, float] = {}
        self._scored_step = -1
        self._saved_step = -1

    # When

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.strict_loading = False  # frozen weights are not in the file; names are checked in on_load_checkpoint
        if stage == "fit" and trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write_text(self.folder / "direction", self.direction + "\n")
            for leftover in self.folder.glob(".step_*.part"):
                leftover.unlink()

    def state_dict(self) -> dict[str, Any]:
        return {"scored_step": self._scored_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._scored_step = state_dict["scored_step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes up for a validation that was due at the restored step, where a signal came before it."""
        if self._saved_step > 0 and self._validation_is_due(trainer) and self._scored_step != self._saved_step:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        boundary = trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0
        due = step % self.every == 0 or step == trainer.max_steps
        if boundary and due and not self._validation_is_due(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._metrics = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        }
        if self.objective not in self._metrics:
            raise ValueError(
                f"objective={self.objective} was not logged by validation; there is {sorted(self._metrics)}"
            )
        self._scored_step, self._saved_step = trainer.global_step, -1  # a step saved before is saved with its score
        self.save(trainer)

    @staticmethod
    def _validation_is_due(trainer: Trainer) -> bool:
        every = trainer.val_check_batch
        ready = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        return trainer.enable_validation and isinstance(every, int) and ready % every == 0

    # What

    def save(self, trainer: Trainer) -> None:
        """Writes and commits a checkpoint of the current step, then drops what it replaces. Called by every rank."""
        step = trainer.global_step
        if step == self._saved_step:
            return
        final = self.folder / f"step_{step:07d}.ckpt"
        temporary = self.folder / f".{final.name}.part"
        if trainer.is_global_zero:
            if self.generation is not None:
                refuse_stale(self.run, self.generation)
            self._refuse_full_disk()
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            score = self._metrics.get(self.objective) if self._scored_step == step else None
            manifest = files.Manifest(
                step=step,
                samples=_samples(trainer),
                size=temporary.stat().st_size,
                crc32=files.checksum(temporary),
                objective=self.objective,
                score=score,
                metrics=self._metrics if self._scored_step == step else {},
            )
            files.commit(temporary, final, manifest)
            files.retain(self.folder, keep_last=self.keep_last, keep_best=self.keep_best, direction=self.direction)
        self._saved_step = step

    def _refuse_full_disk(self) -> None:
        newest = files.committed(self.folder)
        needed = newest[-1].stat().st_size if newest else 0
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"{self.folder}: a checkpoint needs {needed / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free; "
                "the last good one is kept; free the space and go on with ckpt=last"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        names = set(files.trainable_names(pl_module))
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in names}
        checkpoint["callbacks"] = _plain(checkpoint["callbacks"])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        source = str(trainer.ckpt_path)
        files.check_names(files.trainable_names(pl_module), checkpoint["state_dict"], source=source)
        step = checkpoint["global_step"]
        fit_loop = checkpoint["loops"]["fit_loop"]
        checkpoint["loops"]["fit_loop"] = loop_state(fit_loop, step=step, accumulate=trainer.accumulate_grad_batches)
        self._saved_step = step


def loop_state(fit_loop: Mapping[str, Any], *, step: int, accumulate: int) -> dict[str, Any]:
    """Lightning's counters for a run that stands between two optimizer steps, whatever the world it was saved in.

    Args:
        fit_loop: the saved state of the loop.
        step: optimizer steps done.
        accumulate: micro-batches a step in the world that resumes.

    Returns:
        The state with every batch counter set from `step`.
    """
    state = json.loads(json.dumps(fit_loop))
    batches = step * accumulate
    counted = {"ready": batches, "started": batches, "processed": batches, "completed": batches}
    state["epoch_loop.batch_progress"] |= {"total": dict(counted), "current": dict(counted), "is_last_batch": False}
    state["epoch_loop.state_dict"]["_batches_that_stepped"] = step
    once = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    state["epoch_progress"] |= {"total": dict(once), "current": dict(once)}
    return dict(state)


def _samples(trainer: Trainer) -> int:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return int(data.samples(trainer.global_step))


def _plain(value: Any) -> Any:
    """Refuses anything in a checkpoint that a tensors-only load could not read back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    assert value is None or isinstance(value, str | int | float | bool | Tensor | torch.dtype), type(value)
    return value
