"""The loss beside one of its own from diffusers, what it depends on, and predictions that are a row's own."""

from functools import partial
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from common.latent.vae import LatentCodec
from common.random import generator
from projects.pix2pix_video.data import EditBatch, example
from projects.pix2pix_video.model import widen
from projects.pix2pix_video.module import Pix2PixVideo
from projects.pix2pix_video.sampling import sample
from tests.projects.pix2pix_video.parts import UNET, C, tiny_unet
from tests.projects.pix2pix_video.small_run import NOISE, STEPS, Small, batch_of, configured, make_module, make_small
from tests.projects.pix2pix_video.small_set import CODEC, HISTORY, SIZE, VAE

PREDICTIONS = ("epsilon", "v_prediction", "sample")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


def by_hand(module: Pix2PixVideo, batch: EditBatch, *, prediction: str, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """The squared error of each sample with diffusers' scheduler, and the timesteps."""
    scheduler = DDPMScheduler(**NOISE, prediction_type=prediction)
    noise, posterior, t, _, keep_history = batch.draws
    assert batch.latents is not None
    assert batch.text is not None
    stored = batch.latents.float()
    clean = (stored[:, -2] + (0.5 * stored[:, -1]).exp() * posterior - shift) * 0.18215
    noisy = scheduler.add_noise(clean, noise, t)  # type: ignore[arg-type]
    history = stored[:, :-2] * keep_history[:, None, None, None, None]  # unscaled
    seen = torch.cat([noisy, *history.unbind(1)], dim=1)
    states = batch.text.float()
    found = module.model.unet(seen, t, encoder_hidden_states=states).sample
    wanted = {
        "epsilon": noise,
        "v_prediction": scheduler.get_velocity(clean, noise, t),  # type: ignore[arg-type]
        "sample": clean,
    }
    return ((found - wanted[prediction]) ** 2).mean(dim=(1, 2, 3)), t


# The loss


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_that_of_diffusers(small: Small, prediction: str) -> None:
    module, batch = configured(prediction=prediction), batch_of(small.rows(dropout=0.25))
    assert not batch.draws.keep_history.all()
    with torch.no_grad():
        wanted, _ = by_hand(module, batch, prediction=prediction)
        torch.testing.assert_close(module.errors(batch), wanted)
        torch.testing.assert_close(module.training_step(batch, 0), wanted.mean())


def test_the_shift_of_an_autoencoder_is_of_the_target_alone(small: Small) -> None:
    codec = partial(CODEC, architecture=VAE | {"shift_factor": 0.5})
    module, batch = configured(vae=codec), batch_of(small.rows())
    with torch.no_grad():
        wanted, _ = by_hand(module, batch, prediction="epsilon", shift=0.5)
        torch.testing.assert_close(module.errors(batch), wanted)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr(small: Small, prediction: str) -> None:
    module, batch = configured(prediction=prediction, weighting="min_snr", gamma=2.0), batch_of(small.rows())
    with torch.no_grad():
        plain, t = by_hand(module, batch, prediction=prediction)
        snr = compute_snr(DDPMScheduler(**NOISE), t)
        of_clean = snr.clamp(max=2.0)
        wanted = (
            plain * {"epsilon": of_clean / snr, "v_prediction": of_clean / (snr + 1), "sample": of_clean}[prediction]
        )
        torch.testing.assert_close(module.errors(batch), wanted, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(wanted, plain, rtol=1e-2)


def test_the_loss_of_micro_batches_adds_up(small: Small) -> None:
    """Each is divided by the share of the global batch that it stands for."""
    module, rows = configured(), small.rows()
    whole = batch_of(rows, 0, 1, 2, 3)
    parts = [each._replace(normalizer=2.0) for each in (batch_of(rows, 0, 1, 2), batch_of(rows, 3, first=3))]
    with torch.no_grad():
        mean = sum(float(module.training_step(each, 0)) for each in parts) / 2
        assert mean == pytest.approx(float(module.training_step(whole, 0)), rel=1e-5)


# What it depends on


@pytest.mark.parametrize("frame", range(HISTORY))
def test_every_frame_of_the_history_counts(small: Small, frame: int) -> None:
    """Also the oldest: another one changes the loss and the gradient."""
    module, batch = configured(), batch_of(small.rows())
    assert batch.latents is not None
    other = batch.latents.clone()
    other[:, frame] += 1
    results = []
    for each in (batch, batch._replace(latents=other)):
        module.zero_grad()
        loss = module.training_step(each, 0)
        loss.backward()
        gradient = module.model.unet.conv_in.weight.grad
        results.append((float(loss.detach()), gradient.clone()))
    assert abs(results[0][0] - results[1][0]) > 1e-4
    assert not torch.allclose(results[0][1], results[1][1], rtol=1e-3)


def test_the_order_of_the_history_and_the_instruction_count(small: Small) -> None:
    module, batch = configured(), batch_of(small.rows())
    assert batch.latents is not None
    assert batch.text is not None
    reversed_ = torch.cat([batch.latents[:, :-2].flip(1), batch.latents[:, -2:]], dim=1)
    with torch.no_grad():
        found = [
            module.errors(each)
            for each in (batch, batch._replace(latents=reversed_), batch._replace(text=batch.text.flip(0)))
        ]
    assert not torch.allclose(found[0], found[1], rtol=1e-3)
    assert not torch.allclose(found[0], found[2], rtol=1e-5, atol=0)


@pytest.mark.parametrize("base", [C, 2 * C], ids=["text to image", "InstructPix2Pix"])
def test_new_input_channels_of_a_widened_unet_get_gradients(small: Small, base: int) -> None:
    def widened() -> Any:
        plain = tiny_unet(in_channels=base)
        return widen(plain, history=HISTORY)

    module, batch = configured(unet=widened), batch_of(small.rows())
    assert batch.text is not None
    batch = batch._replace(text=batch.text[..., : UNET["cross_attention_dim"]])
    new = slice(C, C + HISTORY * C - (base - C))  # all but the newest frame, where the base knows an image
    weight = module.model.unet.conv_in.weight
    assert not weight[:, new].any()
    module.training_step(batch, 0).backward()
    assert weight.grad[:, new].ne(0).all()
    assert all(parameter.grad is not None for parameter in module.model.parameters())


# What belongs together


def test_keys_that_contradict_are_refused() -> None:
    for changes in ({"train_text_encoder": True}, {"text_encoder_lr": 1e-5}):
        with pytest.raises(ValueError, match=r"model\.text_encoder_lr belongs to model\.train_text_encoder=true"):
            make_module(**changes)
    with pytest.raises(ValueError, match="weighting=snr: one of plain"):
        configured(weighting="snr").errors(
            example(rows=1, history=HISTORY, latent=[4, 8, 8], text=[12, 64], steps=STEPS)
        )


# Predictions


def rows_of(module: Pix2PixVideo, small: Small) -> dict[str, Any]:
    batch = batch_of(small.rows(split="val"))
    history, _ = module.latents(batch)
    text, null_text = module.text(batch)
    return {"history": history, "text": text, "null_text": null_text}


def latents_of(module: Pix2PixVideo, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> Tensor:
    """Latents that `predict` decodes, scaled back: pixels of a random autoencoder say little."""
    found: list[Tensor] = []

    def decode(codec: LatentCodec, latents: Tensor) -> Tensor:
        found.append(latents)
        return torch.zeros(len(latents), 3, SIZE, SIZE, dtype=torch.uint8)

    monkeypatch.setattr(LatentCodec, "decode", decode)
    module.predict(**arguments)
    (latents,) = found
    return latents


def part(arguments: dict[str, Any], *rows: int) -> dict[str, Any]:
    chosen = {name: arguments[name][list(rows)] for name in ("history", "text")}
    return {**arguments, **chosen, "names": [f"row {row}" for row in rows]}


def test_a_prediction_does_not_depend_on_its_batch(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    module = configured().eval()
    arguments = rows_of(module, small)
    whole = latents_of(module, monkeypatch, **part(arguments, 0, 1, 2, 3))
    assert whole.shape == (4, C, 8, 8)
    for order in ([2], [3, 0], [1, 2, 0]):
        found = latents_of(module, monkeypatch, **part(arguments, *order))
        torch.testing.assert_close(found, whole[order], rtol=1e-3, atol=1e-4)
    torch.manual_seed(5)
    assert torch.equal(latents_of(module, monkeypatch, **part(arguments, 0, 1, 2, 3)), whole)
    renamed = latents_of(module, monkeypatch, **{**part(arguments, 0), "names": ["row 1"]})
    assert not torch.allclose(renamed, whole[:1], atol=1e-2)  # the noise is that of its name


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_of_sampling_means_what_it_says(small: Small, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 is one of them; and `predict` is `sample` with the module's settings, unscaled."""
    guidance = {"text_scale": 1.5, "image_scale": 1.2}
    sampling = {"scheduler": "EulerDiscreteScheduler", "steps": 2, "seed": seed, "guidance": guidance}
    module = configured(sampling=sampling).eval()
    arguments = part(rows_of(module, small), 0)
    found = latents_of(module, monkeypatch, **arguments)
    assert torch.equal(found, latents_of(module, monkeypatch, **arguments))
    monkeypatch.setattr(module, "sampling_seed", 7)
    assert not torch.allclose(found, latents_of(module, monkeypatch, **arguments), atol=1e-2)
    arguments.pop("names")
    again = sample(
        module.model,
        **arguments,
        scheduler=module.sampler,
        steps=2,
        guidance=module.guidance,
        generators=[generator(seed, "pix2pix_video", "sample", "row 0")],
    )
    torch.testing.assert_close(found, again / 0.18215)


def test_pictures_are_predictions_beside_the_truth(small: Small) -> None:
    module, rows = configured().eval(), small.rows(split="val", pictures=True)
    first, second = module.predict_pictures(rows, [2, 0])
    (alone,) = module.predict_pictures(rows, [0])
    assert (first.title, second.title) == (rows.prompts[2], rows.prompts[0])
    pixels = rows.frames.pixels(0)
    assert torch.equal(second.history, pixels[:-1])
    assert torch.equal(second.truth, pixels[-1])
    assert second.pred.dtype == torch.uint8
    assert int((second.pred.int() - alone.pred.int()).abs().max()) <= 1
    assert not torch.equal(first.pred, second.pred)
