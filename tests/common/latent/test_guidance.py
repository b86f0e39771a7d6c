"""Guidance against the published formula, and its special cases."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from common.latent.guidance import rescale, shares, two_scale


def branches() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    none, image, both = (torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    return none, image, both


@pytest.mark.parametrize("text_scale", [0.0, 1.0, 1.5, 7.5])
@pytest.mark.parametrize("image_scale", [0.0, 1.0, 1.5, 2.2])
def test_the_published_formula_and_no_branch_that_cancels_out(text_scale: float, image_scale: float) -> None:
    none, image, both = branches()
    wanted = none + image_scale * (image - none) + text_scale * (both - image)
    parts = zip(shares(text_scale, image_scale), (none, image, both), strict=True)
    computed = [branch if share else None for share, branch in parts]
    torch.testing.assert_close(two_scale(*computed, text_scale, image_scale), wanted)


def test_special_cases_need_fewer_branches() -> None:
    none, image, both = branches()
    assert two_scale(None, None, both, 1.0, 1.0) is both
    assert two_scale(none, None, None, 0.0, 0.0) is none
    torch.testing.assert_close(two_scale(none, None, both, 2.0, 2.0), none + 2 * (both - none))
    torch.testing.assert_close(two_scale(None, image, both, 7.5, 1.0), image + 7.5 * (both - image))
    with pytest.raises(AssertionError, match="was not computed"):
        two_scale(None, image, both, 7.5, 1.5)


def test_it_is_the_same_for_noise_and_velocity() -> None:
    """v is linear in e at a fixed noisy latent, so guiding either and translating is the same."""
    none, image, both = branches()
    noisy, signal, share = torch.randn_like(both), 0.6, 0.8

    def velocity(noise: Tensor) -> Tensor:
        return signal * noise - share * (noisy - share * noise) / signal

    guided = two_scale(velocity(none), velocity(image), velocity(both), 7.5, 1.5)
    torch.testing.assert_close(guided, velocity(two_scale(none, image, both, 7.5, 1.5)))


def test_rescaling_agrees_with_diffusers_and_restores_the_contrast() -> None:
    _, image, both = branches()
    guided = image + 7.5 * (both - image)
    torch.testing.assert_close(rescale(guided, both, 0.7), rescale_noise_cfg(guided, both, guidance_rescale=0.7))
    torch.testing.assert_close(rescale(guided, both, 1.0).std(dim=(1, 2, 3)), both.std(dim=(1, 2, 3)))
    assert rescale(guided, both, 0.0) is guided
    single = rescale(guided[:1], both[:1], 0.7)
    torch.testing.assert_close(rescale(guided, both, 0.7)[:1], single)  # a sample does not see its batch
