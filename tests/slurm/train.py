"""`launchers.train` with a model of two numbers and slow steps; a command of its own for the tests of SLURM.

python -m tests.slurm.train -m cluster=slurm steps=20 ...

Each process appends to `steps.<rank>` of the run folder a line for each step that it begins: the start of the job and
the step.
TOY_SECONDS is how long a step takes; TOY_FAULT `raise:<rank>:<step>` raises there.
"""

import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from launchers import train
from launchers.command import run

SECONDS = float(os.environ.get("TOY_SECONDS", "0.05"))
KIND, _, PLACE = os.environ.get("TOY_FAULT", "none").partition(":")


class Slow(LightningModule):
    """A sum that is to become nought."""

    def __init__(self, run: Path, seed: int) -> None:
        super().__init__()
        self.run, self.seed = run, seed
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        step = self.trainer.global_step
        with open(self.run / f"steps.{self.global_rank}", "a") as file:
            file.write(f"{os.environ.get('SLURM_RESTART_COUNT', '0')} {step}\n")
        time.sleep(SECONDS)
        if f"{KIND}:{PLACE}" == f"raise:{self.global_rank}:{step}":
            raise RuntimeError("a fault that was put in")
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.layer(batch[0]).square().mean() + self.seed, logger=False, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": self.layer.parameters(), "name": "all"}], lr=1e-3)


class Ones(LightningDataModule):
    """The same two numbers in every step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def num_steps(self) -> int:
        return self.steps

    def samples(self, step: int) -> int:
        return step

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(self.steps, 2)), batch_size=1)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(1, 2)), batch_size=1)


def main(cfg: DictConfig) -> float | None:
    """Trains as `launchers.train` does, but builds the toy."""
    parts = {id(cfg.data): lambda: Ones(cfg.steps), id(cfg.model): lambda: Slow(Path(cfg.paths.run), cfg.seed)}
    train.build = lambda node: parts[id(node)]()
    train.ready = lambda cfg: None  # would load what only the true model needs
    return train.main(cfg)


if __name__ == "__main__":
    run(main, config_name="config")
