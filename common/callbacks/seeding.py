"""Global randomness (dropout) as a function of seed, micro-batch and rank, so that nothing of it need be saved."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from common.random import mix


class Seeding(Callback):
    """Seeds torch before each micro-batch. Data order and noise do not use the global generator at all."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(mix(self.seed, batch_idx, trainer.global_rank))
