"""From data sets to loaders: training in the one global order, evaluation sharded over the ranks."""

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from common.data.groups import GroupedOrder
from common.data.loader import Loader
from common.data.order import GlobalOrder, MicroBatches, Order
from common.types import Build, Pick

log = logging.getLogger(__name__)


class Rows(Protocol):
    """What a project's data set offers. It is built once per process, in `setup`."""

    def __len__(self) -> int: ...

    def __getitem__(self, pick: Pick) -> Any: ...

    def collate(self, samples: list[Any]) -> Any:
        """Samples of one micro-batch to a batch."""

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """Length of each row, for batches of similar length; None where all are alike."""

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """What each row counts in the loss; None counts each once."""

    @property
    def fingerprint(self) -> str:
        """Changes when the rows do."""

    def name(self, number: int) -> str:
        """What the source of a row calls it, for messages."""


@runtime_checkable
class Grouped(Protocol):
    """Rows of several shapes, which are batched with their like."""

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Group of each row, int64; None where all are alike."""


class StreamData(LightningDataModule):
    """Loaders over data sets that any project brings.

    Training follows `GlobalOrder`, or `GroupedOrder` where rows have groups, and starts where the restored run stands.
    Evaluation gives rank r the rows r, r + world, ... once each, longest first.
    """

    def __init__(
        self,
        *,
        train: Build[Rows],
        val: Build[Rows],
        test: Mapping[str, Build[Rows]],
        predict: Build[Rows],
        example: Build[Any] | None = None,
        global_batch: int,
        micro_batch: int,
        eval_batch: int,
        seed: int,
        steps: int | None,
        epochs: float | None,
        by_length: bool = True,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """
        Args:
            train: recipe of the training rows.
            val: recipe of the validation rows.
            test: recipes of the test rows, by name of the view.
            predict: recipe of the rows that `generate` answers.
            example: recipe of a micro-batch of the usual shape, called with `rows`, that needs no data: for estimates.
            global_batch: rows of an optimizer step.
            micro_batch: rows a device takes at once.
            eval_batch: the same in evaluation.
            seed: of the order.
            steps: optimizer steps; give this or epochs.
            epochs: passes over the training rows.
            by_length: make training batches of similar length where the rows have lengths.
            num_workers: loader processes a rank; 0 loads in the main process.
            pin_memory: page-locked batches, for a GPU.
        """
        super().__init__()
        if (steps is None) == (epochs is None):
            raise ValueError(f"give either steps or epochs, not both (steps={steps}, epochs={epochs})")
        if (steps is not None and steps < 1) or (epochs is not None and epochs <= 0):
            raise ValueError(f"steps={steps}, epochs={epochs}: more than 0, or nothing would be trained")
        if num_workers < 0:
            raise ValueError(f"data.num_workers={num_workers}: 0 loads in the main process")
        self.recipes = {"train": train, "val": val, "predict": predict}
        self.test_recipes = dict(test)
        self.example = example
        self.global_batch, self.micro_batch, self.eval_batch = global_batch, micro_batch, eval_batch
        self.seed, self.steps, self.epochs, self.by_length = seed, steps, epochs, by_length
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self._built: dict[str, Rows] = {}
        self._first_step = 0

    def rows(self, split: str) -> Rows:
        """The data set of a split (`train`, `val`, `predict`, or `test/<view>`), built on first use."""
        if split not in self._built:
            view = split.removeprefix("test/")
            self._built[split] = self.test_recipes[view]() if split.startswith("test/") else self.recipes[split]()
        return self._built[split]

    def synthetic_batch(self, rows: int) -> Any:
        """A micro-batch of the usual shape, made without reading anything."""
        if self.example is None:
            raise ValueError("data.example is not set: the recipe of a micro-batch that needs no data")
        return self.example(rows=rows)

    def num_steps(self) -> int:
        """Optimizer steps of the run: given, or the passes over the training rows, rounded up."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return math.ceil(self.epochs * len(self.rows("train")) / self.global_batch)

    def samples(self, step: int) -> int:
        """Rows seen after `step` optimizer steps."""
        return step * self.global_batch

    def samples_of(self, step: int, micro_batch: int) -> list[str]:
        """Names of the rows that this rank sees in one micro-batch, both counted from 0."""
        rows = self.rows("train")
        batches = self._batches(rows)
        return [rows.name(pick.row) for pick in batches.of(step)[micro_batch]]

    def setup(self, stage: str) -> None:
        for split in {"fit": ("train", "val"), "validate": ("val",), "predict": ("predict",)}.get(stage, ()):
            self.rows(split)

    # Loaders

    def train_dataloader(self) -> DataLoader[Any]:
        rows = self.rows("train")
        return self._loader(rows, self._batches(rows))

    def _batches(self, rows: Rows) -> MicroBatches:
        trainer = self._trainer()
        return MicroBatches(
            self._order(rows),
            micro=self.micro_batch,
            accumulate=trainer.accumulate_grad_batches,
            rank=trainer.global_rank,
            world=trainer.world_size,
            weights=rows.weights,
            first_step=self._first_step,
        )

    def _order(self, rows: Rows) -> Order:
        lengths, groups = rows.lengths if self.by_length else None, groups_of(rows)
        size, steps = self.global_batch, self.num_steps()
        if groups is None:
            return GlobalOrder(rows=len(rows), global_batch=size, steps=steps, seed=self.seed, lengths=lengths)
        assert lengths is None, "rows have groups or lengths"
        order = GroupedOrder(groups=groups, global_batch=size, steps=steps, seed=self.seed)
        if small := [len(each) for each in order.members if len(each) < size]:
            log.warning(
                "%d of %d groups of training rows have fewer than batch.global=%d rows (least %d): their batches "
                "repeat rows", len(small), len(order.members), size, min(small)
            )  # fmt: skip
        return order

    def val_dataloader(self) -> DataLoader[Any]:
        return self._evaluation("val")

    def test_dataloader(self) -> dict[str, DataLoader[Any]]:
        return {view: self._evaluation(f"test/{view}") for view in self.test_recipes}

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._evaluation("predict", by_length=False)

    def _evaluation(self, split: str, *, by_length: bool = True) -> DataLoader[Any]:
        rows = self.rows(split)
        trainer = self._trainer()
        lengths = rows.lengths if by_length else None
        rank, world = trainer.global_rank, trainer.world_size
        return self._loader(
            rows, EvaluationBatches(len(rows), lengths, self.eval_batch, rank, world, groups=groups_of(rows))
        )

    def _loader(self, rows: Rows, batches: Sampler[list[Pick]]) -> DataLoader[Any]:
        assert isinstance(rows, Dataset)
        return Loader(
            rows,
            batch_sampler=batches,
            collate_fn=rows.collate,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0,
        )

    def _trainer(self) -> Any:
        assert self.trainer is not None, "loaders are made by a Trainer"
        return self.trainer

    # Resumption

    def state_dict(self) -> dict[str, Any]:
        rows = len(self.rows("train"))  # for the record; the order knows it too
        return {"samples": self.samples(self._trainer().global_step), "rows": rows, "order": self._order_id()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["order"] != self._order_id():
            raise ValueError(
                "the training rows, their order or the number of steps are not those of the run that is resumed; "
                "use its data, seed, steps and batch.global, or start a new run from its weights with init="
            )
        samples = state_dict["samples"]
        assert samples % self.global_batch == 0, (samples, self.global_batch)
        self._first_step = samples // self.global_batch

    def _order_id(self) -> str:
        rows = self.rows("train")
        parts = (rows.fingerprint, len(rows), self.seed, self.global_batch, self.num_steps(), self.by_length)
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def groups_of(rows: Rows) -> NDArray[np.int64] | None:
    """Groups of rows, where they have any."""
    return rows.groups if isinstance(rows, Grouped) else None


class EvaluationBatches(Sampler[list[Pick]]):
    """Rows rank, rank + world, ... of each group, each once, longest first; a batch is of one group."""

    def __init__(
        self,
        rows: int,
        lengths: NDArray[np.int64] | None,
        batch: int,
        rank: int,
        world: int,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        ids = np.arange(rows) if lengths is None else np.argsort(-lengths, kind="stable")
        parts = [ids] if groups is None else [ids[groups[ids] == group] for group in np.unique(groups)]
        mine = [part[rank::world] for part in parts]
        self.batches = [part[start : start + batch] for part in mine for start in range(0, len(part), batch)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Pick]]:
        for batch in self.batches:
            yield [Pick(int(row), int(row), 1.0) for row in batch]
