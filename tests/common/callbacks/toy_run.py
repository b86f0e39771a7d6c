"""A training run that takes a second, for tests of callbacks; as a program, on a disk of any size.

python -m tests.common.callbacks.toy_run FOLDER PROCESSES [blind]
ends with the message of a refusal. `blind` takes away the look at the free space, so that a write meets the end of it.
"""

import sys
from pathlib import Path

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from common import disk
from common.callbacks.checkpointing import Checkpointing

WIDTH = 300  # of the layer that trains: a checkpoint is 1.08 MB with the moments of Adam


class Toy(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.layer = nn.Linear(WIDTH, WIDTH)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layer(self.frozen(batch[0])).square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.training_step(batch, batch_idx), logger=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.layer.parameters(), lr=1e-3)


class Numbers(LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.ones(64, WIDTH)), batch_size=2)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.ones(4, WIDTH)), batch_size=2)

    def samples(self, step: int) -> int:
        return 2 * step

    def samples_of(self, step: int, micro_batch: int) -> list[str]:
        return [f"row {2 * step + number} of micro-batch {micro_batch}" for number in range(2)]


def fit(folder: Path, *callbacks: Callback, devices: int = 1, ckpt: Path | None = None) -> None:
    """Six steps, a validation and a checkpoint after every second; the two newest stay."""
    saving = Checkpointing(
        run=str(folder), every=2, keep_last=2, keep_best=0, objective="val/loss", direction="min", generation=None
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=6,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[*callbacks, saving],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(Toy(), datamodule=Numbers(), ckpt_path=ckpt, weights_only=True)


if __name__ == "__main__":
    if "blind" in sys.argv:
        disk.free_bytes = lambda folder: 1 << 60
    try:
        fit(Path(sys.argv[1]), devices=int(sys.argv[2]))
    except disk.DiskSpaceError as error:
        sys.exit(str(error))
