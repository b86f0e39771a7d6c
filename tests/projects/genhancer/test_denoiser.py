"""The denoiser against diffusers' own pass and against plain formulas; counts; precision."""

from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from projects.genhancer import rotary
from projects.genhancer.denoiser import Denoiser, build_denoiser
from projects.genhancer.packing import latent_coordinates
from tests.projects.genhancer.plain_flux import flux
from tests.projects.genhancer.toy_generator import ARCHITECTURE, PUBLISHED, normal


def inputs(batch: int = 2, context: int = 3) -> dict[str, Tensor]:
    ids = torch.zeros(batch, context, 3)
    ids[..., 0] = normal(batch, context, seed=9)
    return {
        "noisy": normal(batch, 6, 16, seed=1),
        "times": torch.tensor([0.125, 0.875])[:batch],
        "vector": normal(batch, 24, seed=2),
        "context": normal(batch, context, 40, seed=3),
        "context_ids": ids,
        "latent_ids": latent_coordinates(4, 6),
    }


def build(**changes: Any) -> Denoiser:
    return build_denoiser(**{"architecture": ARCHITECTURE} | changes)


def test_published_count() -> None:
    with torch.device("meta"):
        denoiser = build(architecture=PUBLISHED)
    d, mlp = 3072, 4 * 3072
    linear = lambda i, o: i * o + o  # noqa: E731
    embedders = linear(64, d) + linear(4096, d) + 2 * linear(256, d) + linear(768, d) + 3 * linear(d, d)
    last = linear(d, 2 * d) + linear(d, 64)
    stream = linear(d, 6 * d) + linear(d, 3 * d) + 2 * 128 + linear(d, d) + linear(d, mlp) + linear(mlp, d)
    single = linear(d, 3 * d) + linear(d, 3 * d + mlp) + 2 * 128 + linear(d + mlp, d)
    counted = sum(each.numel() for each in denoiser.parameters())
    assert counted == embedders + last + 2 * (2 * stream) + 4 * single == 1_310_154_816
    assert [round(each / 1e6, 1) for each in (embedders + last, 2 * stream, single)] == [64.1, 339.8, 141.6]


def test_with_shared_coordinates_it_is_the_pass_of_diffusers() -> None:
    denoiser, given = build(), inputs()
    given["context_ids"] = given["context_ids"][:1].expand(2, -1, -1)
    ours = denoiser(**given)
    theirs = FluxTransformer2DModel(**ARCHITECTURE)
    theirs.load_state_dict(denoiser.flux.state_dict())
    expected = theirs(
        hidden_states=given["noisy"],
        encoder_hidden_states=given["context"],
        pooled_projections=given["vector"],
        timestep=given["times"],
        img_ids=given["latent_ids"],
        txt_ids=given["context_ids"][0],
        guidance=torch.full((2,), 4.0),
    ).sample
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_it_is_the_plain_formula() -> None:
    denoiser, given = build().double(), inputs()
    ids = torch.cat([given["context_ids"], given["latent_ids"].expand(2, -1, -1)], dim=1)
    expected = flux(
        denoiser.flux.state_dict(),
        *(given[name].double() for name in ("noisy", "times", "vector", "context")),
        ids.double(),
        guidance=4.0,
        heads=2,
        axes=(4, 6, 6),
        double=2,
        single=2,
    )
    torch.testing.assert_close(denoiser(**given), expected.float(), rtol=2e-4, atol=1e-5)


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    denoiser, given = build(), inputs()
    together = denoiser(**given)
    for row in range(2):
        alone = {name: each if name == "latent_ids" else each[row : row + 1] for name, each in given.items()}
        torch.testing.assert_close(denoiser(**alone)[0], together[row], rtol=1e-4, atol=1e-5)


def test_only_differences_of_coordinates_count() -> None:
    denoiser, given = build(), inputs()
    moved = given | {name: given[name] + torch.tensor([3.0, 5.0, 7.0]) for name in ("context_ids", "latent_ids")}
    torch.testing.assert_close(denoiser(**moved), denoiser(**given), rtol=1e-4, atol=1e-5)
    other = given | {"context_ids": given["context_ids"] + torch.tensor([3.0, 0.0, 0.0])}
    assert not torch.allclose(denoiser(**other), denoiser(**given), rtol=1e-3, atol=1e-4)


def test_time_guidance_vector_and_context_all_matter() -> None:
    denoiser, given = build(), inputs()
    plain = denoiser(**given)
    for name in ("times", "vector", "context"):
        assert not torch.allclose(denoiser(**given | {name: given[name].flip(0)}), plain, rtol=1e-3, atol=1e-4), name
    assert not torch.allclose(build(guidance=1.0)(**given), plain, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_under_autocast_times_and_rotations_stay_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, given = build(), inputs() | {"times": torch.tensor([0.1234, 0.8765])}  # not numbers of bfloat16
    turned: list[tuple[torch.dtype, torch.dtype]] = []
    original = rotary.rotate

    def spy(states: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        result = original(states, angles)
        turned.append((angles[0].dtype, result.dtype))
        return result

    monkeypatch.setattr(rotary, "rotate", spy)
    seen = {}
    embed = denoiser.flux.time_text_embed
    embed.timestep_embedder.register_forward_hook(lambda _, args, out: seen.update(args=args[0], out=out))
    with torch.autocast("cpu", torch.bfloat16):
        denoiser(**given)
        assert denoiser(**given).dtype == torch.float32
    expected = embed.time_proj(given["times"] * 1000)
    assert not torch.equal(expected, embed.time_proj((given["times"].bfloat16() * 1000).float()))
    assert seen["args"].dtype == seen["out"].dtype == torch.float32
    assert torch.equal(seen["args"], expected)
    assert turned
    assert all(angles == torch.float32 for angles, _ in turned)


def test_checkpointing_changes_nothing_but_memory() -> None:
    plain, saving, given = build(), build(checkpointing=True), inputs()
    for denoiser in (plain, saving):
        denoiser(**given).square().mean().backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad)


def test_every_parameter_learns() -> None:
    """Nothing starts at zero, as published; only what the last double block would do to the context is unread."""
    denoiser = build()
    denoiser(**inputs()).square().mean().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in denoiser.parameters())


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    first = build().state_dict()
    assert all(torch.equal(each, first[name]) for name, each in build().state_dict().items())
    assert not torch.equal(build(seed=1).state_dict()["flux.x_embedder.weight"], first["flux.x_embedder.weight"])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"denoiser\.architecture\.num_layer: .*num_layers"):
        build(architecture={"num_layer": 2})
    with pytest.raises(ValueError, match="give both or neither"):
        build(guidance=None)
    with pytest.raises(ValueError, match="give both or neither"):
        build(architecture=ARCHITECTURE | {"guidance_embeds": False})
    build(architecture=ARCHITECTURE | {"guidance_embeds": False}, guidance=None)(**inputs())
    with pytest.raises(ValueError, match=r"noisy tokens is \(2, 6, 15\)"):
        build()(**inputs() | {"noisy": torch.zeros(2, 6, 15)})
