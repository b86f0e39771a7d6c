"""The module on pictures of its own, small enough to train in a test."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.callbacks.checkpointing import Checkpointing
from common.config import ROOT
from common.data.module import StreamData
from common.encoders.tower import ContrastiveTower, load_tower
from common.latent.vae import LatentCodec, load_codec
from common.optim import warmup_constant
from common.types import Pick
from projects.genhancer.adapters import adapt
from projects.genhancer.data import Batch
from projects.genhancer.denoiser import build_denoiser
from projects.genhancer.draws import draw, stack
from projects.genhancer.model import Reconstructor
from projects.genhancer.module import GenHancer
from projects.genhancer.optimizer import adamw
from projects.genhancer.tower_scores import TowerScores

CLIP = str(ROOT / "common" / "tiny" / "weights" / "clip")
SIZE, TARGET, LATENT = 64, 16, (4, 8, 8)
VAE: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": TARGET,
}
FLUX: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "axes_dims_rope": [4, 6, 6],
    "joint_attention_dim": 24,
    "pooled_projection_dim": 12,
    "guidance_embeds": True,
}
TOWER = {
    "_target_": "common.encoders.tower.load_tower",
    "_partial_": True,
    "weights": CLIP,
}
ADAPTERS = {
    "_target_": "projects.genhancer.adapters.adapt",
    "_partial_": True,
    "targets": ["q_proj", "v_proj", "fc1"],
    "rank": 2,
    "alpha": 4,
}
LORA = partial(adapt, targets=ADAPTERS["targets"], rank=2, alpha=4)


class Squares(Dataset[Pick]):
    """Noise pictures; with K > 1 as frames of clips, the target between the first two."""

    def __init__(self, *, rows: int = 8, conditions: int = 1, cached: bool = False) -> None:
        self.count, self.conditions, self.cached = rows, conditions, cached

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, pick: Pick) -> Pick:
        return pick

    lengths: NDArray[np.int64] | None = None
    weights: NDArray[np.float64] | None = None
    fingerprint = "squares"

    def name(self, number: int) -> str:
        return f"row {number}"

    def refuse_other_codec(self, codec: LatentCodec) -> None:
        pass

    def refuse_other_tower(self, tower: ContrastiveTower, *, learns: bool) -> None:
        pass

    def collate(self, samples: list[Pick]) -> Batch:
        rows = [self._pictures(pick.row) for pick in samples]
        conditions, targets = (torch.stack(each) for each in zip(*rows, strict=True))
        embeddings = conditions.float().flatten(2)[..., :64] if self.cached else None
        times = torch.arange(self.conditions + 1).float() if self.conditions > 1 else torch.zeros(2)
        return Batch(
            rows=torch.tensor([pick.row for pick in samples]),
            conditions=None if self.cached else conditions,
            embeddings=embeddings,
            target=targets,
            latents=None,
            times=times.expand(len(samples), -1),
            draws=stack([draw(0, "train", pick.position, shape=LATENT) for pick in samples]),
            normalizer=samples[0].normalizer,
        )

    def _pictures(self, row: int) -> tuple[Tensor, Tensor]:
        source = torch.Generator().manual_seed(row)
        coarse = torch.randint(256, (self.conditions + 1, 3, 4, 4), generator=source, dtype=torch.uint8)
        conditions = coarse[:-1].repeat_interleave(SIZE // 4, 2).repeat_interleave(SIZE // 4, 3)
        target = coarse[-1] if self.conditions > 1 else coarse[0]
        return conditions, target.repeat_interleave(TARGET // 4, 1).repeat_interleave(TARGET // 4, 2)


def make_module(*, second: bool = False, **changes: Any) -> GenHancer:
    """A module of either stage, not yet configured."""
    reconstructor: dict[str, Any] = {"width": 64}
    if changes.pop("condition", "class") == "patches":
        reconstructor |= {"patch_width": 128, "condition": "patches"}
    arguments: dict[str, Any] = {
        "tower": partial(load_tower, weights=CLIP),
        "vae": partial(load_codec, weights="random", architecture=VAE),
        "reconstructor": partial(Reconstructor, denoiser=partial(build_denoiser, architecture=FLUX), **reconstructor),
        "scores": partial(TowerScores, preprocess=CLIP, batch=8, workers=1, val={}, test={}),
        "sampling": {"steps": 2, "seed": 0, "count": 2},
        "optimizer": partial(adamw, betas=[0.9, 0.999], eps=1e-8, eight_bit=False),
        "lr": 1e-3,
        "tower_lr": 1e-3 if second else None,
        "weight_decay": 0.0,
        "schedule": partial(warmup_constant, warmup=0),
        "adapters": LORA if second else None,
    }
    return GenHancer(**{**arguments, **changes})


def configured(**changes: Any) -> GenHancer:
    module = make_module(**changes)
    module.configure_model()
    return module


def make_data(*, steps: int = 2, micro: int = 2, **rows: Any) -> StreamData:
    return StreamData(
        train=partial(Squares, **rows),
        val=partial(Squares, **{**rows, "rows": 2}),
        test={"real": partial(Squares, **{**rows, "rows": 2})},
        predict=partial(Squares, **{**rows, "rows": 2}),
        global_batch=4,
        micro_batch=micro,
        eval_batch=2,
        seed=0,
        steps=steps,
        epochs=None,
    )


def trainer_of(folder: Path, data: StreamData, *, callbacks: Sequence[Callback] = (), **changes: Any) -> Trainer:
    """Validates and saves after the last step."""
    accumulate = data.global_batch // data.micro_batch
    saving = Checkpointing(
        run=str(folder), every=1, keep_last=9, keep_best=1, objective="val/loss", direction="min", generation=None
    )
    arguments: dict[str, Any] = {
        "accelerator": "cpu",
        "max_steps": data.num_steps(),
        "accumulate_grad_batches": accumulate,
        "callbacks": [saving, *callbacks],
        "val_check_interval": accumulate * data.num_steps(),
        "check_val_every_n_epoch": None,
        "default_root_dir": folder,
    }
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    plain = {"enable_model_summary": False, "num_sanity_val_steps": 0, "use_distributed_sampler": False}
    return Trainer(**{**arguments, **quiet, **plain, **changes})


def fit(module: GenHancer, data: StreamData, folder: Path, **changes: Any) -> Trainer:
    trainer = trainer_of(folder, data, **changes)
    trainer.fit(module, datamodule=data)
    return trainer


def batch_of(rows: Squares, *numbers: int) -> Batch:
    numbers = numbers or tuple(range(len(rows)))
    return rows.collate([Pick(row, place, float(len(numbers))) for place, row in enumerate(numbers)])
