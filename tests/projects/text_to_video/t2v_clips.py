"""A cache of random latents with captions, and the parts of a run on it: small enough for single steps on a CPU."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from lightning import Trainer

from common.data.cache import WHOLE, CacheWriter, Item
from common.data.module import StreamData
from common.encoders.text import ClipText
from common.files import write_jsonl
from common.latent.vae import load_codec
from common.optim import warmup_constant
from projects.text_to_video.buckets import bucket_named
from projects.text_to_video.captions import Written, key_of, open_captions
from projects.text_to_video.data import Clips
from projects.text_to_video.distributed import Distributed
from projects.text_to_video.module import TextToVideo
from projects.text_to_video.video_latents import settings_of
from tests.projects.text_to_video.t2v_parts import LENGTH, NOISE, WIDTH, tiny_unet

TINY_TEXT = str(Path(__file__).resolve().parents[3] / "common/tiny/weights/clip")
ARCHITECTURE = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 600,
    "max_position_embeddings": 16,
}
VAE = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 8,
}
FPS = 8.0
TEXT = partial(ClipText, weights="random", architecture=ARCHITECTURE, tokenizer=TINY_TEXT, max_tokens=LENGTH + 3)
CODEC = partial(load_codec, weights="random", architecture=VAE)
WORDS = ("red", "blue", "green", "yellow")


def caption(number: int) -> str:
    return f"a {WORDS[number % 4]} ring"


def write_latents(folder: Path, stored: Sequence[tuple[str, int]], *, logvar: bool = False) -> Path:
    """The cache of a split: for each clip its bucket, such as 8x8x5, and how many frames it has."""
    codec, source = CODEC(), torch.Generator().manual_seed(0)
    rows = []
    for name in sorted({bucket for bucket, _ in stored}):
        bucket = bucket_named(name)
        items, tensors = [], {}
        for number, (of, frames) in enumerate(stored):
            if of == name:
                items.append(Item(f"clip{number}", f"key{number}"))
                shape = (frames, 8 if logvar else 4, bucket.height // 2, bucket.width // 2)
                tensors[f"key{number}"] = torch.randn(shape, generator=source).bfloat16()
        settings = settings_of(codec, bucket=bucket, fps=FPS, crop="centre", logvar=logvar, dtype="bfloat16")
        writer = CacheWriter(folder / name, items=items, settings=settings, shard_size=100)
        writer.write(0, tensors, [])
        writer.finish(max_failed=0.0)
    for number, (of, frames) in enumerate(stored):
        rows.append({"id": f"clip{number}", "caption": caption(number), "frames": frames, "bucket": of, "video": ""})
    write_jsonl(folder / "clips.jsonl", rows)
    return folder


def write_rewritten(folder: Path, captions: dict[str, str]) -> str:
    """New captions by old ones, as task=recaption leaves them."""
    with open_captions(folder, settings={"weights": "none"}, part=WHOLE) as file:
        file.append([Written(key_of(old), new) for old, new in captions.items()])
    return str(folder)


def clips(latents: Path, /, **changes: Any) -> Clips:
    settings: dict[str, Any] = {
        "latents": str(latents),
        "table": None,
        "split": "train",
        "media": None,
        "frames": 5,
        "fps": FPS,
        "size": [8, 8],
        "crop": "centre",
        "latent": [4, 4, 4],
        "steps": 1000,
        "targets": 2,
        "text_dropout": 0.5,
        "context_dropout": 0.1,
        "seed": 0,
    }
    return Clips(**settings | changes)


def module(**changes: Any) -> TextToVideo:
    kind = partial(
        Distributed, unet=tiny_unet, frames=6, patch=2, depth=1, queries=4, heads=2, dim_head=8, width=16, targets=2
    )
    settings: dict[str, Any] = {
        "kind": kind,
        "vae": CODEC,
        "text_encoder": TEXT,
        "noise": partial(DDPMScheduler, **NOISE),
        "sampling": {"scheduler": "DDIMScheduler", "steps": 2, "seed": 0, "guidance": {"text_scale": 2.0}},
        "optimizer": torch.optim.AdamW,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "schedule": partial(warmup_constant, warmup=1),
    }
    return TextToVideo(**settings | changes)


def fit(run: TextToVideo, train: Clips, val: Clips | None = None, *, steps: int = 2, micro: int = 2) -> Trainer:
    """A few steps; validates after the last."""
    data = StreamData(
        train=lambda: train,
        val=lambda: train if val is None else val,
        test={},
        predict=lambda: train,
        global_batch=4,
        micro_batch=micro,
        eval_batch=3,
        seed=0,
        steps=steps,
        epochs=None,
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=4 // micro,
        val_check_interval=steps * 4 // micro,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(run, datamodule=data)
    return trainer
