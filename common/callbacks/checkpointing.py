"""Owns saving, retention and exact resumption; nothing else in the project saves a checkpoint of a run."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from common import checkpoint as files
from common.callbacks.fence import stop_if_overtaken
from common.disk import DiskSpaceError, StreamedCheckpoints, expected_bytes, human, shortage, stored_bytes
from common.files import atomic_write_text

log = logging.getLogger(__name__)


class Checkpointing(Callback):
    """Saves what trains, at step boundaries, under a name that appears only when the file is whole.

    Exactness rests on three rules. A checkpoint is taken only between optimizer steps, and after the validation that
    is due at that step. It counts samples, not batches: Lightning's loop counters are rewritten on resumption from the
    number of steps, so that another number of processes or another micro-batch may go on. And it holds exactly the
    parameters that train: any other set of names is refused.

    A checkpoint that does not fit on the disk is refused before it is begun, and one that cannot be written to its end
    is removed; either ends the run on every rank, and what was committed before stays.
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
        also: Sequence[int] = (),
        generation: int | None = None,
    ) -> None:
        """
        Args:
            run: the run folder.
            every: optimizer steps between checkpoints; the last step is always saved.
            also: further steps that are saved.
            keep_last: newest checkpoints that stay.
            keep_best: checkpoints that stay for their score.
            objective: name of the validation metric that is the score.
            direction: "min" or "max".
            generation: which start of the run this is; given by the launcher.
        """
        if direction not in ("min", "max"):
            raise ValueError(f"direction={direction}: min or max")
        if every < 1:
            raise ValueError(f"callbacks.checkpointing.every={every} (validate_every, if not set): at least 1")
        if keep_last < 1:
            raise ValueError(f"callbacks.checkpointing.keep_last={keep_last}: at least 1, or a run could not go on")
        self.run = Path(run)
        self.folder = self.run / files.FOLDER
        self.every, self.also = every, frozenset(also)
        self.keep_last, self.keep_best = keep_last, keep_best
        self.objective, self.direction = objective, direction
        self.generation = generation
        self._metrics: dict[str, float] = {}
        self._scored_step = -1
        self._saved_step = -1
        self._files = StreamedCheckpoints()

    # When

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.strict_loading = False  # frozen weights are not in the file; names are checked in on_load_checkpoint
        trainer.strategy.checkpoint_io = self._files
        if stage == "fit" and trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write_text(self.folder / "direction", self.direction + "\n")
            for leftover in files.leftovers(self.folder):
                leftover.unlink()

    def state_dict(self) -> dict[str, Any]:
        return {"scored_step": self._scored_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._scored_step = state_dict["scored_step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the disk; then makes up for a validation that was due at the restored step, but was interrupted."""
        self._refuse(trainer, self._start_problem(trainer) if trainer.is_global_zero else None)
        if self._saved_step > 0 and self._validation_is_due(trainer) and self._scored_step != self._saved_step:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        boundary = trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0
        due = step % self.every == 0 or step in self.also or step == trainer.max_steps
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
        # A name of its own: another copy of this run, slow to die, may be writing the same step.
        temporary = self.folder / f".{final.name}.{self.generation or 0:08x}.part"
        stop_if_overtaken(trainer, self.run, self.generation)
        trainer.save_checkpoint(temporary)
        stop_if_overtaken(trainer, self.run, self.generation)  # a newer start removes what this one has written
        problem = self._files.problem
        if trainer.is_global_zero and problem is None:
            problem = self._commit(trainer, temporary, final)
        self._refuse(trainer, problem)
        self._saved_step = step

    def _commit(self, trainer: Trainer, temporary: Path, final: Path) -> str | None:
        """Makes a written file the checkpoint of its step; what kept it from that, or None."""
        scored = self._scored_step == trainer.global_step
        manifest = files.Manifest(
            step=trainer.global_step,
            samples=_samples(trainer),
            size=temporary.stat().st_size,
            crc32=files.checksum(temporary),
            objective=self.objective,
            score=_score(self._metrics.get(self.objective)) if scored else None,
            metrics=self._metrics if scored else {},
        )
        try:
            files.commit(temporary, final, manifest)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            return f"writing {final} failed: {error.strerror}"
        try:
            files.retain(self.folder, keep_last=self.keep_last, keep_best=self.keep_best, direction=self.direction)
        except OSError as error:
            log.warning("older checkpoints in %s cannot be removed now: %s", self.folder, error.strerror)
        return None

    # Space

    def _start_problem(self, trainer: Trainer) -> str | None:
        """Why the run could not save once; warns where it cannot hold all that it is to keep."""
        size = expected_bytes(trainer.optimizers)
        problem = shortage("a checkpoint of this run", size, self.folder)
        if problem is not None:
            return problem
        there = len(files.committed(self.folder))
        at_once = min(self.keep_last + self.keep_best + 1, there + trainer.max_steps - trainer.global_step)
        what = f"to hold {at_once - there} checkpoints of {human(size)} each at once"
        problem = shortage(what, (at_once - there) * size, self.folder)
        if problem is not None:
            log.warning("%s; lower callbacks.checkpointing.keep_last or keep_best, or a save will be refused", problem)
        return None

    def _refuse(self, trainer: Trainer, problem: str | None) -> None:
        """Ends the run on every rank where rank 0 found a problem; otherwise the others would wait for it."""
        problem = trainer.strategy.broadcast(problem)
        if problem is None:
            return
        kept = files.committed(self.folder)
        then = f"{kept[-1].name} is kept; free the space and go on with ckpt=last" if kept else "free the space"
        raise DiskSpaceError(f"{problem}; {then}, or put paths.outputs elsewhere")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        names = set(files.trainable_names(pl_module))
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in names}
        checkpoint["callbacks"] = _plain(checkpoint["callbacks"])
        problem = None
        if trainer.is_global_zero:
            problem = shortage(f"the checkpoint of step {trainer.global_step}", stored_bytes(checkpoint), self.folder)
        self._refuse(trainer, problem)

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
        The state with every batch counter set from `step`, and no validation begun: the next one is a whole one, where
        Lightning would go on in the one that the counters speak of.
    """
    state = json.loads(json.dumps(fit_loop))
    batches = step * accumulate
    for loop, number in {"epoch_loop": batches, "epoch_loop.val_loop": 0}.items():
        counted = dict.fromkeys(("ready", "started", "processed", "completed"), number)
        state[f"{loop}.batch_progress"] |= {"total": dict(counted), "current": dict(counted), "is_last_batch": False}
    state["epoch_loop.state_dict"]["_batches_that_stepped"] = step
    once = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    state["epoch_progress"] |= {"total": dict(once), "current": dict(once)}
    return dict(state)


def _samples(trainer: Trainer) -> int:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return int(data.samples(trainer.global_step))


def _score(value: float | None) -> float | None:
    """A number that can be compared: one that is not finite is no score."""
    return value if value is not None and math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """Refuses anything in a checkpoint that a tensors-only load could not read back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    assert value is None or isinstance(value, str | int | float | bool | Tensor | torch.dtype), type(value)
    return value
