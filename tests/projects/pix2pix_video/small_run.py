"""The module and its rows on the small set, and short trainings of them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DDPMScheduler
from lightning import Callback, Trainer

from common.data.module import StreamData
from common.optim import warmup_constant
from common.types import Pick
from projects.pix2pix_video.data import EditBatch, Edits
from projects.pix2pix_video.edit_latents import edit_latents
from projects.pix2pix_video.model import build_unet
from projects.pix2pix_video.module import Pix2PixVideo
from tests.projects.pix2pix_video.parts import UNET
from tests.projects.pix2pix_video.small_set import CODEC, HISTORY, LATENT, SIZE, TEXT, make_set

STEPS = 1000
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SMALL_UNET = partial(build_unet, weights="random", architecture={**UNET, "cross_attention_dim": 64}, history=HISTORY)


class Small(NamedTuple):
    """A small set and the cache of its latents and instructions."""

    edits: Path
    cache: Path

    def arguments(self, *, cached: bool = True, split: str = "train", **changes: Any) -> dict[str, Any]:
        """Arguments of its rows."""
        settings: dict[str, Any] = {
            "folder": str(self.edits),
            "split": split,
            "media": str(self.edits.parent / "media"),
            "size": SIZE,
            "crop": "squash",
            "history": HISTORY,
            "latent": list(LATENT),
            "latents": str(self.cache) if cached else None,
            "text": str(self.cache / "text") if cached else None,
            "steps": STEPS,
            "dropout": 0.0,
            "seed": 0,
            "pictures": False,
        }
        return settings | changes

    def rows(self, **changes: Any) -> Edits:
        return Edits(**self.arguments(**changes))


def make_small(root: Path) -> Small:
    edits = make_set(root)
    edit_latents(
        folder=str(edits),
        media=str(root / "media"),
        cache=str(root / "latents"),
        codec=CODEC,
        text=TEXT,
        size=SIZE,
        history=HISTORY,
        crop="squash",
        shard_size=8,
        pictures_at_once=8,
        prompts_at_once=4,
        max_failed=0.0,
        num_workers=0,
        checked=1,
        devices="cpu",
    )
    return Small(edits, root / "latents")


def make_module(
    *, prediction: str = "epsilon", weight_decay: float = 0.0, lr: float = 1e-3, **changes: Any
) -> Pix2PixVideo:
    """A module, not yet configured."""
    arguments: dict[str, Any] = {
        "unet": SMALL_UNET,
        "vae": CODEC,
        "text_encoder": TEXT,
        "noise": partial(DDPMScheduler, **NOISE, prediction_type=prediction, clip_sample=False),
        "sampling": {
            "scheduler": "DDIMScheduler",
            "steps": 2,
            "seed": 0,
            "guidance": {"text_scale": 1.5, "image_scale": 1.2},
        },
        "train_text_encoder": False,
        "optimizer": torch.optim.AdamW,
        "lr": lr,
        "text_encoder_lr": None,
        "weight_decay": weight_decay,
        "schedule": partial(warmup_constant, warmup=1),
    }
    return Pix2PixVideo(**{**arguments, **changes})


def configured(**changes: Any) -> Pix2PixVideo:
    module = make_module(**changes)
    module.configure_model()
    return module


def make_data(
    small: Small, *, steps: int = 3, micro: int = 2, val: dict[str, Any] | None = None, **changes: Any
) -> StreamData:
    """Training on `small` with these arguments of its rows; validation on its own split, with pictures."""
    view = small.arguments(**{**changes, "split": "val", "dropout": 0.0, "pictures": True, **(val or {})})
    return StreamData(
        train=partial(Edits, **small.arguments(**changes)),
        val=partial(Edits, **view),
        test={"real": partial(Edits, **{**view, "split": "test"})},
        predict=partial(Edits, **view),
        global_batch=4,
        micro_batch=micro,
        eval_batch=4,
        seed=0,
        steps=steps,
        epochs=None,
    )


def fit(
    module: Pix2PixVideo, data: StreamData, *, callbacks: Sequence[Callback] = (), validate_every: int | None = None
) -> Trainer:
    """Trains; validates every so many steps, or never."""
    accumulate = data.global_batch // data.micro_batch
    trainer = Trainer(
        accelerator="cpu",
        max_steps=data.num_steps(),
        accumulate_grad_batches=accumulate,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0 if validate_every is None else 1.0,
        val_check_interval=accumulate * (validate_every or 1),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    return trainer


def batch_of(rows: Edits, *numbers: int, first: int = 0) -> EditBatch:
    """A batch of these rows (all without numbers), at positions from `first` on."""
    numbers = numbers or tuple(range(len(rows)))
    return rows.collate([Pick(row, first + place, float(len(numbers))) for place, row in enumerate(numbers)])
