"""The benchmark of cached steps: its figures, and that the cache leaves the encoders alone and the loss as it is."""

from functools import partial
from typing import Any

import pytest
import torch

from common.config import build, check
from common.latent.vae import LatentCodec
from common.measure import Clock
from launchers.command import compose
from projects.pix2pix_video.latent_benchmark import PARTS, Trained

CPU = torch.device("cpu")
SMALL = [
    "unet.history=2",
    "unet.architecture.block_out_channels=[32,32,32,32]",
    "unet.architecture.layers_per_block=1",
    "vae.architecture.block_out_channels=[32,32,32,32]",
    "vae.architecture.layers_per_block=1",
    "text_encoder.architecture.num_hidden_layers=1",
    "text_encoder.architecture.vocab_size=100",
]


def task(*overrides: str) -> Any:
    small = [f"task.module.{override}" for override in SMALL]
    where = ["task=latent_benchmark", "+task._partial_=true", "paths.run=run"]
    cfg = compose(*where, *small, *overrides, config_name="prepare")
    check(cfg)
    return cfg.task


def recipe(*overrides: str, **changes: Any) -> partial[dict[str, float]]:
    return partial(build(task(*overrides)), **{"size": 32, "batch": 2, "rounds": 2} | changes)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained(build(task().module)(), device=CPU, precision="32-true")


def test_figures(capsys: pytest.CaptureFixture[str]) -> None:
    figures = recipe()()
    assert figures["ratio_least"] <= figures["ratio"] <= figures["ratio_most"]
    assert figures["ratio"] > 1
    assert figures["cached_samples_per_second"] > figures["on_the_fly_samples_per_second"]
    assert figures["on_the_fly_tflop"] > figures["cached_tflop"] > 0
    assert figures["cached_encoder_calls"] == 0
    assert figures["largest_difference"] < 0.01  # a step of float16
    assert figures["peak_gib"] > 0.1
    shown = capsys.readouterr().out
    assert "2 samples of 2 + 1 frames of 32 px, cpu" in shown
    assert "0 calls of encoders in cached steps" in shown


def test_both_steps_have_one_loss_and_only_one_calls_the_encoders(trained: Trained) -> None:
    fresh = trained.batch(rows=2, size=32, seed=0)
    kept = trained.encode(fresh, Clock(CPU, PARTS))
    assert kept.latents is not None
    assert kept.latents.shape == (2, 4, 4, 4, 4)
    state = {name: tensor.clone() for name, tensor in trained.module.state_dict().items()}
    before = trained.encoder_calls
    cached = trained.cached(kept, Clock(CPU, PARTS))
    assert trained.encoder_calls == before
    assert not torch.equal(trained.module.model.unet.conv_in.weight, state["model.unet.conv_in.weight"])  # it learned
    trained.module.load_state_dict(state)
    encoded = trained.on_the_fly(fresh, Clock(CPU, PARTS))
    assert trained.encoder_calls == before + 2
    assert torch.equal(cached, encoded)


def test_a_batch_of_frames_alone_is_encoded_by_the_module_to_the_same(trained: Trained) -> None:
    fresh = trained.batch(rows=2, size=32, seed=0)
    kept = trained.encode(fresh, Clock(CPU, PARTS))
    with torch.no_grad():
        assert torch.equal(trained.module.training_step(fresh, 0), trained.module.training_step(kept, 0))


def test_time_goes_to_the_parts_that_a_step_has(trained: Trained) -> None:
    fresh = trained.batch(rows=2, size=32, seed=0)
    clock, without = Clock(CPU, PARTS), Clock(CPU, PARTS)
    trained.on_the_fly(fresh, clock)
    assert all(seconds > 0 for seconds in clock.seconds.values())
    trained.cached(trained.encode(fresh, Clock(CPU, PARTS)), without)
    assert without.seconds["frames"] == without.seconds["instructions"] == 0
    assert without.total == sum(without.seconds.values()) > 0


def test_latents_that_change_from_one_encoding_to_the_next_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, calls = LatentCodec.encode, iter(range(100))

    def drifting(codec: LatentCodec, pixels: torch.Tensor) -> Any:
        posterior = encode(codec, pixels)
        return posterior._replace(mean=posterior.mean + 0.5 * next(calls))

    monkeypatch.setattr(LatentCodec, "encode", drifting)
    assert recipe(rounds=1)()["largest_difference"] == pytest.approx(0.5, abs=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "neither may be 0"),
        ({"batch": 0}, "neither may be 0"),
        ({"precision": "16-mixed"}, "precision=16-mixed is not one of 32-true, bf16-mixed"),
        ({"device": "cuda:99"}, "there is auto, cpu"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**changes)()


def test_a_text_encoder_that_learns_is_refused() -> None:
    learns = ["task.module.train_text_encoder=true", "task.module.text_encoder_lr=1e-5"]
    with pytest.raises(ValueError, match="train_text_encoder=true cannot be cached"):
        recipe(*learns)()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda() -> None:
    figures = recipe(device="cuda", precision="bf16-mixed")()
    assert figures["cached_encoder_calls"] == 0
    assert figures["peak_gib"] > 0
