"""Times, ends and steps of the flow."""

import math

import pytest
import torch

from projects.genhancer import flow
from tests.projects.genhancer.toy_generator import normal


def test_times_are_the_scaled_logit_normal() -> None:
    draws = normal(5)
    for scale in (0.1, 1.0, 5.0):
        expected = [1 / (1 + math.exp(-scale * float(each))) for each in draws]
        assert flow.times_of(draws, scale=scale).tolist() == pytest.approx(expected)
    assert torch.equal(flow.times_of(draws), flow.times_of(draws, scale=1.0))
    moved = [1 / (1 + math.exp(-float(each) - 1.5)) for each in draws]
    assert flow.times_of(draws, location=1.5).tolist() == pytest.approx(moved)


def test_times_without_a_scale_are_uniform() -> None:
    times = flow.times_of(normal(20_000), scale=None).sort().values
    assert float((times - torch.linspace(0, 1, 20_000)).abs().max()) < 0.015


def test_times_are_float32_whatever_the_draws_are() -> None:
    assert flow.times_of(normal(4).bfloat16()).dtype == torch.float32


def test_the_flow_runs_from_data_to_noise() -> None:
    clean, noise = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1)
    times = torch.tensor([0.0, 1.0, 0.25])
    between = flow.interpolate(clean, noise, times)
    assert torch.equal(between[0], clean[0])
    assert torch.equal(between[1], noise[1])
    torch.testing.assert_close(between[2], 0.75 * clean[2] + 0.25 * noise[2])
    step = flow.interpolate(clean, noise, times + 0.125) - between
    torch.testing.assert_close(step, 0.125 * flow.target(clean, noise), rtol=1e-4, atol=1e-6)


def test_sampling_times_are_those_of_flux() -> None:
    for tokens, shift in ((256, 0.5), (4096, 1.15), (441, 0.5 + 0.65 * 185 / 3840)):
        times = flow.sampling_times(4, tokens)
        inner = [math.exp(shift) / (math.exp(shift) + (1 / t - 1)) for t in (0.75, 0.5, 0.25)]
        assert times.tolist() == pytest.approx([1.0, *inner, 0.0])
    with pytest.raises(ValueError, match=r"sampling\.steps=0"):
        flow.sampling_times(0, 256)


def test_euler_steps_along_the_true_flow_reach_the_data() -> None:
    clean, noise = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    seen = []

    def predict(state: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(state, flow.interpolate(clean, noise, t), rtol=1e-4, atol=1e-5)
        seen.append(float(t[0]))
        return flow.target(clean, noise)

    times = flow.sampling_times(7, 196)
    torch.testing.assert_close(flow.euler(predict, noise, times), clean, rtol=1e-4, atol=1e-5)
    assert seen == times[:-1].tolist()
