"""The estimate against the allocator: a real training of the tiny models, on the synthetic batch and on a real one."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from common.config import build
from common.memory.run import MemoryRun
from common.types import Pick
from launchers.command import compose
from launchers.machine import memory_run

TINY = ["llava_video_tiny", "llava_video_lora_tiny", "video_chatgpt_tiny", "video_chatgpt_tiny_projector"]


def configure(experiment: str, *overrides: str) -> Any:
    return compose(f"experiment={experiment}", "paths.run=unused", *overrides)


def real_peak(cfg: Any, make_batch: Any) -> int:
    """Most bytes that the allocator of torch held while a run was built and made three steps."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer = Trainer(
            accelerator="cpu",
            max_steps=3,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(build(cfg.model), DataLoader([make_batch()] * 3, batch_size=None))
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    assert len(events) > 500
    return max(itertools.accumulate(event.nbytes() for event in events))


@pytest.mark.parametrize("experiment", TINY)
def test_estimate_is_the_real_peak(experiment: str) -> None:
    cfg = configure(experiment)
    estimate = memory_run(cfg).need().total
    peak = real_peak(cfg, lambda: build(cfg.data).synthetic_batch(cfg.batch.micro))
    print(f"{experiment}: estimate {estimate / 1e6:.2f} MB, allocator {peak / 1e6:.2f} MB")
    assert estimate == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize("experiment", TINY[:3])
def test_the_synthetic_batch_stands_for_a_real_one(experiment: str, shapes: Path) -> None:
    cfg = configure(experiment, f"paths.data='{shapes}'")
    rows = build(cfg.data).rows("train")
    picks = [Pick(row % len(rows), row, 1.0) for row in range(cfg.batch.micro)]
    peak = real_peak(cfg, lambda: rows.collate([rows[pick] for pick in picks]))
    estimate = memory_run(cfg).need().total
    print(f"{experiment}: estimate {estimate / 1e6:.2f} MB, real rows {peak / 1e6:.2f} MB")
    assert estimate == pytest.approx(peak, rel=0.10)


def test_recomputation_is_seen() -> None:
    plain, recomputed = (
        memory_run(configure("video_chatgpt_tiny", f"model.language_model.checkpoint_fraction={share}")).need()
        for share in (0, 1)
    )
    assert recomputed.activations < 0.7 * plain.activations
    assert recomputed.optimizer == plain.optimizer


def test_attention_stores_no_scores() -> None:
    """What grows faster than the length is far below the scores of 4 heads in 2 blocks, in bfloat16."""
    rows, activations = 4, {}
    for after in (166, 366):
        words = ("hardware=rtx4090", f"data.example.after={after}", f"batch.micro_on.gpu24={rows}", "batch.global=4")
        moments = memory_run(configure("video_chatgpt_tiny", *words)).traced("own").moments
        activations[1 + 34 + after] = max(moment.activations for moment in moments)
    (short, small), (long, large) = activations.items()
    scores = rows * 4 * 2 * 2 * long**2
    assert large - small * long / short < 0.1 * scores


def test_an_unknown_precision_is_refused() -> None:
    run = memory_run(configure("video_chatgpt_tiny", "trainer.precision=16-mixed"))
    with pytest.raises(ValueError, match="16-mixed"):
        run.need()


def test_nothing_is_read_for_a_model_that_is_not_there(tmp_path: Path) -> None:
    run = MemoryRun(dict(memory_run(configure("video_chatgpt", f"paths.data='{tmp_path}'")).tree))
    assert run.traced("own").sizes.trained_count == 4_206_592
    assert run.traced("own").sizes.frozen_count == 6_738_440_192
    assert not torch.cuda.is_initialized()


def test_frozen_parts_that_a_step_builds_are_counted(tmp_path: Path) -> None:
    """An autoencoder and a text encoder outside the module's tree, whose published weights are not there."""
    words = ("model=text_to_video_distributed_quarter", "model.kind.depth=1", "model.kind.frames=8", "batch.global=1")
    words += ("model.text_encoder.weights=somewhere/else", "model.text_encoder.tokenizer=null")
    words += ("data.example.frames=8", "data.example.latent=[4,16,16]", f"paths.data='{tmp_path}'")
    held = {}
    for layers in (1, 5):
        layer = f"model.text_encoder.architecture.num_hidden_layers={layers}"
        needed = memory_run(configure("text_to_video_distributed", *words, layer)).need()
        held[layers] = needed.activations
    width = 256
    layer_size = 4 * (width * width + width) + 2 * 4 * width * width + 5 * width + 4 * width
    assert held[5] - held[1] == 4 * 4 * layer_size
