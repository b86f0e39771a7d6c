"""The frozen autoencoder: the numbers of diffusers, uint8 at both ends."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from common.latent.vae import LatentCodec, load_codec
from common.weights.source import WeightsError

TINY = "common/tiny/weights/vae"
ARCHITECTURE = {"block_out_channels": [32], "norm_num_groups": 8, "latent_channels": 4, "shift_factor": 0.5}


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return load_codec(weights=TINY)


def pictures(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_the_posterior_is_that_of_diffusers(codec: LatentCodec) -> None:
    plain = AutoencoderKL.from_pretrained(TINY)
    with torch.no_grad():
        expected = plain.encode(pictures().float() / 127.5 - 1).latent_dist
    found = codec.encode(pictures())
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.logvar, expected.logvar, rtol=1e-4, atol=1e-4)
    assert found.mean.shape == (3, 4, 8, 8)
    assert (codec.channels, codec.factor) == (4, 4)


def test_a_sample_is_mean_and_deviation(codec: LatentCodec) -> None:
    found = codec.encode(pictures())
    noise = torch.randn(found.mean.shape)
    torch.testing.assert_close(found.sample(noise), found.mean + found.logvar.exp().sqrt() * noise)


def test_decoding_is_uint8_and_cuts_what_is_out_of_range(codec: LatentCodec) -> None:
    plain = AutoencoderKL.from_pretrained(TINY)
    latents = 10 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = ((plain.decode(latents).sample.clamp(-1, 1) + 1) * 127.5).round()
    found = codec.decode(latents)
    assert found.dtype == torch.uint8
    assert (found.float() - expected).abs().max() <= 1
    assert found.max() == 255
    assert found.min() == 0


def test_scale_shifts_first_and_unscale_undoes_it() -> None:
    codec = load_codec(weights="random", architecture=ARCHITECTURE)
    latents = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(codec.scale(latents), (latents - 0.5) * 0.18215)
    torch.testing.assert_close(codec.unscale(codec.scale(latents)), latents)


def test_it_stays_frozen_and_in_eval_mode(codec: LatentCodec) -> None:
    assert not load_codec(weights=TINY).training
    assert not codec.train().training
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_encoder_only_has_no_decoder() -> None:
    whole, half = load_codec(weights=TINY), load_codec(weights=TINY, encoder_only=True)
    assert sum(each.numel() for each in half.parameters()) < sum(each.numel() for each in whole.parameters())
    assert torch.equal(whole.encode(pictures()).mean, half.encode(pictures()).mean)
    assert half.identity == whole.identity


def test_bad_pictures_are_refused(codec: LatentCodec) -> None:
    with pytest.raises(ValueError, match=r"30 x 30 pixels; the autoencoder takes multiples of 4"):
        codec.encode(pictures(size=30))
    with pytest.raises(ValueError, match=r"pixels is .*float32; expected"):
        codec.encode(pictures().float())


def test_bad_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vae\.architecture"):
        load_codec(weights="random")
    with pytest.raises(WeightsError, match="holds no autoencoder"):
        load_codec(weights=str(tmp_path))
    with pytest.raises(WeightsError, match="hf download some/model"):
        load_codec(weights="some/model")


def test_the_tiny_autoencoder_keeps_pictures_of_the_world() -> None:
    from common.shapes_world.edits import draw_edits

    edits = [draw_edits(seed=0, split="test", index=i, size=32, frames=20, lead=4)[0] for i in range(64)]
    truth = torch.stack([torch.from_numpy(edit.target(size=32)).permute(2, 0, 1) for edit in edits])
    codec = load_codec(weights=TINY)
    back = codec.decode(codec.encode(truth).mean)
    last = torch.stack([torch.from_numpy(edit.history(size=32)[-1]).permute(2, 0, 1) for edit in edits])

    def psnr(pred: torch.Tensor) -> float:
        error = (pred.double() - truth.double()).square().mean(dim=(1, 2, 3)).clamp(min=1 / 12)
        return float((10 * torch.log10(255**2 / error)).mean())

    assert psnr(back) >= psnr(last) + 6  # what a prediction in latents can win over a copy of the last frame
