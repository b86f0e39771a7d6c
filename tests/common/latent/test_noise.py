"""The noise schedule against the schedulers of diffusers and against its own definition."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr

from common.latent.noise import NoiseSchedule, squared_errors
from common.latent.schedulers import sampler, training_scheduler

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TIMES = torch.tensor([0, 10, 500, 998])
CLEAN, NOISE = torch.randn(2, 4, 4, 3, 3, generator=torch.Generator().manual_seed(0))


def schedule(prediction: str, **more: object) -> tuple[NoiseSchedule, DDPMScheduler]:
    scheduler = DDPMScheduler(**STABLE_DIFFUSION, prediction_type=prediction, **more)
    return NoiseSchedule(scheduler), scheduler


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noise_and_targets_are_those_of_diffusers(prediction: str) -> None:
    ours, theirs = schedule(prediction)
    noisy = ours.add_noise(CLEAN, NOISE, TIMES)
    torch.testing.assert_close(noisy, theirs.add_noise(CLEAN, NOISE, TIMES))
    target = ours.target(CLEAN, NOISE, TIMES)
    wanted = {"epsilon": NOISE, "v_prediction": theirs.get_velocity(CLEAN, NOISE, TIMES), "sample": CLEAN}
    torch.testing.assert_close(target, wanted[prediction])
    torch.testing.assert_close(ours.clean(target, noisy, TIMES), CLEAN, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.snr(TIMES), compute_snr(theirs, TIMES))


@pytest.mark.parametrize("kind", ["uniform", "min_snr", "max_snr"])
def test_a_weight_counts_the_same_error_alike_whatever_is_predicted(kind: str) -> None:
    """An error d of x is an error of sqrt(SNR) d of the noise and of sqrt(SNR + 1) d of v."""
    values = []
    for prediction, factor in (("sample", 0.0), ("epsilon", 1.0), ("v_prediction", 1.0)):
        ours, _ = schedule(prediction)
        snr = ours.snr(TIMES)
        scale = {"sample": torch.ones(4), "epsilon": snr, "v_prediction": snr + 1}[prediction]
        assert factor <= 1
        values.append(ours.weight(TIMES, kind=kind) * scale)
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(values[0], values[2], rtol=1e-4, atol=1e-6)


def test_weights_by_their_formulas() -> None:
    ours, _ = schedule("v_prediction")
    snr = ours.snr(TIMES)
    assert torch.equal(ours.weight(TIMES, kind="plain"), torch.ones(4))
    torch.testing.assert_close(ours.weight(TIMES, kind="uniform"), 1 / (snr + 1))
    torch.testing.assert_close(ours.weight(TIMES, kind="min_snr"), snr.clamp(max=5) / (snr + 1))
    torch.testing.assert_close(ours.weight(TIMES, kind="max_snr"), snr.clamp(min=1) / (snr + 1))
    with pytest.raises(ValueError, match="weighting=snr: one of plain"):
        ours.weight(TIMES, kind="snr")


def test_zero_terminal_snr_leaves_v_minus_x_and_refuses_noise_prediction() -> None:
    ours, _ = schedule("v_prediction", rescale_betas_zero_snr=True)
    last = torch.tensor([999, 999, 999, 999])
    assert torch.equal(ours.snr(last), torch.zeros(4))
    torch.testing.assert_close(ours.target(CLEAN, NOISE, last), -CLEAN)
    assert torch.equal(ours.weight(last, kind="min_snr"), torch.zeros(4))
    with pytest.raises(ValueError, match="zero terminal SNR"):
        schedule("epsilon", rescale_betas_zero_snr=True)


def test_errors_are_one_number_a_sample_in_float32() -> None:
    errors = squared_errors(CLEAN.bfloat16(), NOISE)
    assert errors.dtype == torch.float32
    torch.testing.assert_close(errors[1], (CLEAN[1].bfloat16().float() - NOISE[1]).square().mean())


def test_a_sampler_has_the_noise_that_was_trained_with() -> None:
    trained = training_scheduler(weights="random", config={**STABLE_DIFFUSION, "prediction_type": "v_prediction"})
    chosen = sampler("DDIMScheduler", trained)
    assert isinstance(chosen, DDIMScheduler)
    assert torch.equal(chosen.alphas_cumprod, trained.alphas_cumprod)
    assert chosen.config.prediction_type == "v_prediction"
    with pytest.raises(ValueError, match="did you mean DDIMScheduler"):
        sampler("DDIMSchedular", trained)
