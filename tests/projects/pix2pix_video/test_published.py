"""At published size, without storage: the shipped configuration, what is counted, and what a step computes."""

from collections.abc import Iterator

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers.initialization import no_init_weights

from common.config import build, check
from launchers.command import compose
from projects.pix2pix_video.data import EditBatch
from projects.pix2pix_video.draws import Draws
from projects.pix2pix_video.latents import NULL
from projects.pix2pix_video.module import Pix2PixVideo

META = torch.device("meta")
HISTORY, LATENT, SIZE = 20, (4, 32, 32), 256
TERA = 1e12


@pytest.fixture(scope="module")
def cfg() -> DictConfig:
    return compose("experiment=pix2pix_video", "model=pix2pix_video_random", "paths.run=.")


@pytest.fixture(scope="module")
def module(cfg: DictConfig) -> Iterator[Pix2PixVideo]:
    made: Pix2PixVideo = build(cfg.model)
    made.to(META)
    with META, no_init_weights(), pytest.MonkeyPatch.context() as patch:
        # transformers looks at the positions for packed sequences, which have no values here.
        patch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda _: None)
        made.configure_model()
        yield made


def batch(*, cached: bool) -> EditBatch:
    """One sample."""
    with META:
        draws = Draws(
            noise=torch.zeros(1, *LATENT),
            posterior=torch.zeros(1, *LATENT),
            timesteps=torch.zeros(1, dtype=torch.long),
            keep_text=torch.ones(1, dtype=torch.bool),
            keep_history=torch.ones(1, dtype=torch.bool),
        )
        return EditBatch(
            rows=torch.zeros(1, dtype=torch.long),
            latents=torch.zeros(1, HISTORY + 2, *LATENT, dtype=torch.float16) if cached else None,
            frames=None if cached else torch.zeros(1, HISTORY + 1, 3, SIZE, SIZE, dtype=torch.uint8),
            text=torch.zeros(1, 77, 768, dtype=torch.float16) if cached else None,
            null_text=torch.zeros(1, 77, 768, dtype=torch.float16) if cached else None,
            prompts=(NULL,),
            draws=draws,
            normalizer=1.0,
        )


def step(module: Pix2PixVideo, each: EditBatch, *, backward: bool = True) -> float:
    """TFLOP of a training step on a sample."""
    with FlopCounterMode(display=False) as counter:
        loss: Tensor = module.training_step(each, 0)
        if backward:
            loss.backward()
    return counter.get_total_flops() / TERA


def test_the_experiment_is_the_published_recipe(cfg: DictConfig) -> None:
    check(cfg)
    check(compose("experiment=pix2pix_video", "paths.run=."))
    assert (cfg.batch["global"], cfg.steps, cfg.model.lr, cfg.model.schedule.warmup) == (32, 20_000, 5e-5, 500)
    assert (cfg.data.train.size, cfg.data.train.history, cfg.data.train.dropout) == (SIZE, HISTORY, 0.05)
    assert (cfg.data.val.dropout, cfg.data.test.real.dropout) == (0.0, 0.0)
    assert (cfg.model.sampling.guidance.text_scale, cfg.model.sampling.guidance.image_scale) == (7.5, 1.5)
    assert cfg.callbacks.ema.decay == 0.9999
    gpu = compose("experiment=pix2pix_video", "model=pix2pix_video_random", "hardware=rtx4090", "paths.run=.")
    check(gpu)
    assert gpu.trainer.precision == "bf16-mixed"


def test_numbers_of_the_unet(module: Pix2PixVideo) -> None:
    """conv_in has 84 channels where Stable Diffusion's 859,520,964 numbers have 4."""
    unet = module.model.unet
    assert unet.config.in_channels == 84
    assert sum(parameter.numel() for parameter in unet.conv_in.parameters()) == 84 * 320 * 9 + 320
    assert sum(parameter.numel() for parameter in unet.parameters()) == 859_751_364 == 859_520_964 + 80 * 320 * 9
    assert all(parameter.requires_grad for parameter in unet.parameters())
    assert sum(parameter.numel() for parameter in module.parameters()) == 859_751_364  # nothing else trains


def test_numbers_of_the_frozen_parts(module: Pix2PixVideo) -> None:
    assert sum(parameter.numel() for parameter in module.codec.parameters()) == 83_653_863
    assert sum(parameter.numel() for parameter in module._part("text_encoder").parameters()) == 123_060_480


def test_arithmetic_of_a_cached_step(module: Pix2PixVideo) -> None:
    forward = step(module, batch(cached=True), backward=False)
    both = step(module, batch(cached=True))
    assert forward == pytest.approx(0.181, rel=0.02)
    assert both == pytest.approx(0.538, rel=0.02)
    assert both / forward == pytest.approx(3.0, abs=0.04)  # only the input of the first layer needs no gradient


def test_arithmetic_of_an_encoded_frame(module: Pix2PixVideo) -> None:
    with META, FlopCounterMode(display=False) as counter:
        posterior = module.codec.encode(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8))
    assert posterior.mean.shape == (1, *LATENT)
    assert counter.get_total_flops() / TERA == pytest.approx(0.273, rel=0.02)


def test_the_cache_saves_eleven_of_twelve_parts(module: Pix2PixVideo) -> None:
    cached, fresh = (step(module, batch(cached=each)) for each in (True, False))
    assert fresh == pytest.approx(6.28, rel=0.02)
    assert fresh / cached == pytest.approx(11.7, rel=0.02)


def test_recomputation_adds_less_than_a_forward(cfg: DictConfig) -> None:
    """At most 0.718 TFLOP; less, since it stops before the last product of each residual and transformer block."""
    added = "model.unet.checkpointing=true"
    changed = compose("experiment=pix2pix_video", "model=pix2pix_video_random", added, "paths.run=.")
    made: Pix2PixVideo = build(changed.model)
    made.to(META)
    with META:
        made.configure_model()
        assert 0.65 < (step(made, batch(cached=True)) - 0.538) / 0.181 < 1.0


def test_a_row_of_the_cache_is_176_kib() -> None:
    latents = batch(cached=True).latents
    assert latents is not None
    assert latents.numel() * latents.element_size() == 176 * 1024
