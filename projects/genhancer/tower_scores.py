"""Benchmarks of the tower while it trains and when it is tested: what the second stage gave, and what it cost."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from common.encoders.tower import ContrastiveTower
from common.metrics.interval import Estimate
from common.types import Build
from projects.genhancer.benchmarks.outcome import ALL, Benchmark
from projects.genhancer.benchmarks.table import full_float32, reader_of

Shares = dict[str, dict[str, Estimate | float]]  # by measure and group


class Asked(NamedTuple):
    """What the tower answered.

    Attributes:
        shares: of cases that are right, by measure and group.
    """

    shares: Shares

    def whole(self) -> dict[str, Estimate | float]:
        """Shares of all cases, by measure."""
        return {measure: groups[ALL] for measure, groups in self.shares.items()}

    def numbers(self) -> dict[str, float]:
        """Every share as a number: `<measure>`, and `<measure>/<group>`."""
        return {
            measure if group == ALL else f"{measure}/{group}": _number(share)
            for measure, groups in self.shares.items()
            for group, share in groups.items()
        }


class TowerScores:
    """Asks the tower the benchmarks of validation or of a test."""

    def __init__(
        self,
        *,
        preprocess: str,
        batch: int,
        workers: int,
        val: Mapping[str, Build[Benchmark] | None],
        test: Mapping[str, Build[Benchmark] | None],
    ) -> None:
        """
        Args:
            preprocess: folder or fetched Hub id of the model whose preprocessor file is followed, or "random".
            batch: pictures at once.
            workers: threads that open and resize pictures.
            val: recipes of benchmarks by name, asked at each validation of a stage that changes the tower; null
                leaves one out.
            test: likewise, asked once in a test.
        """
        self.preprocess, self.batch, self.workers = preprocess, batch, workers
        self.recipes = {"val": val, "test": test}
        self._made: dict[str, dict[str, Benchmark]] = {}

    def benchmarks(self, which: str) -> dict[str, Benchmark]:
        """Those of "val" or "test", whose files have been found.

        Raises:
            BenchmarkError: a file is missing, or laid out in another way.
        """
        if which not in self._made:
            made = {name: recipe() for name, recipe in self.recipes[which].items() if recipe is not None}
            for benchmark in made.values():
                benchmark.identity()
            self._made[which] = made
        return self._made[which]

    def ask(self, which: str, tower: ContrastiveTower, *, device: torch.device) -> Asked:
        """Every rank asks all of it, so that no rank waits for another."""
        reader = reader_of(tower, self.preprocess, batch=self.batch, workers=self.workers, device=str(device))
        shares: Shares = {}
        with full_float32():
            for name, benchmark in self.benchmarks(which).items():
                for measure, groups in benchmark.run(reader).report().items():
                    shares[name if measure == name else f"{name}/{measure}"] = groups
        return Asked(shares)


def _number(share: Estimate | float) -> float:
    return share.value if isinstance(share, Estimate) else share
