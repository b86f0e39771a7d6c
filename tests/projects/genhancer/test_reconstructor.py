"""The loss against a few plain lines; image, clip and patches; gradients into the tower; sampling."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from common.encoders.tower import load_tower
from common.lora import add_lora
from projects.genhancer.denoiser import build_denoiser
from projects.genhancer.draws import Draws, draw, stack
from projects.genhancer.model import Reconstructor
from projects.genhancer.projectors import Heads
from tests.projects.genhancer.plain_flux import flux
from tests.projects.genhancer.toy_generator import ARCHITECTURE, PATCH_WIDTH, PUBLISHED, WIDTH, build, normal

SHAPE = (4, 4, 6)


def draws(batch: int = 2) -> Draws:
    return stack([draw(0, "train", position, shape=SHAPE) for position in range(batch)])


def batch(frames: int, rows: int = 2) -> dict[str, Any]:
    times = torch.arange(frames + 1).float().expand(rows, -1) / 4
    return {
        "embeddings": normal(rows, frames, WIDTH, seed=4),
        "times": times.clone(),
        "latents": normal(rows, *SHAPE, seed=5),
        "draws": draws(rows),
    }


def plain_errors(model: Reconstructor, given: dict[str, Any], ids: Tensor) -> Tensor:
    """The loss of the reference, from state dicts alone, in float64."""
    state = {name: each.double() for name, each in model.state_dict().items()}
    noise, normals = given["draws"].noise.double(), given["draws"].normal.double()
    clean, embeddings = given["latents"].double(), given["embeddings"].double()
    t = 1 / (1 + torch.exp(-normals))
    x_t = (1 - t)[:, None, None, None] * clean + t[:, None, None, None] * noise

    def head(name: str) -> Tensor:
        get = lambda part: state[f"heads.{name}.{part}"]  # noqa: E731
        x = functional.layer_norm(embeddings, (WIDTH,), get("0.weight"), get("0.bias"))
        return functional.gelu(x @ get("1.weight").T + get("1.bias")) @ get("3.weight").T + get("3.bias")

    def tokens(x: Tensor) -> Tensor:
        return functional.unfold(x, 2, stride=2).mT  # rows of windows; inside one channel, row, column

    prediction = flux(
        {name.removeprefix("denoiser.flux."): each for name, each in state.items()},
        tokens(x_t),
        t,
        head("to_vector").mean(dim=1),
        head("to_context"),
        ids.double(),
        guidance=4.0,
        heads=2,
        axes=(4, 6, 6),
        double=2,
        single=2,
    )
    return (prediction - tokens(noise - clean)).square().mean(dim=(1, 2)).float()


def latent_ids(rows: int = 2) -> Tensor:
    return torch.tensor([(0, row, column) for row in range(2) for column in range(3)]).float().expand(rows, -1, -1)


def test_the_loss_of_an_image_is_the_published_one() -> None:
    given = batch(1) | {"times": torch.full((2, 2), 7.5)}  # its own target, at whatever time
    ids = torch.cat([torch.zeros(2, 1, 3), latent_ids()], dim=1)
    model = build()
    errors = model.errors(**given)
    assert errors.dtype == torch.float32
    torch.testing.assert_close(errors, plain_errors(model, given, ids), rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_clip_has_a_token_a_frame_at_its_time() -> None:
    given = batch(2)
    given["times"] = torch.tensor([[0.0, 2.0, 1.0], [1.0, 1.5, 3.0]])
    frames = torch.zeros(2, 2, 3)
    frames[..., 0] = torch.tensor([[-4.0, 4.0], [-8.0, -6.0]])  # four units a second, from the target
    ids = torch.cat([frames, latent_ids()], dim=1)
    model = build()
    torch.testing.assert_close(model.errors(**given), plain_errors(model, given, ids), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_time_of_day_does_not_matter_but_distances_do() -> None:
    model, given = build(), batch(2)
    errors = model.errors(**given)
    torch.testing.assert_close(model.errors(**given | {"times": given["times"] + 20}), errors)
    assert float((model.errors(**given | {"times": given["times"] * 3}) - errors).abs().max()) > 1e-4
    assert float((build(units_per_second=1.0).errors(**given) - errors).abs().max()) > 1e-4


def test_patches_are_the_context_of_the_ablation() -> None:
    model = build(condition="patches", patch_width=PATCH_WIDTH)
    given, patches = batch(2), normal(2, 2, 9, PATCH_WIDTH, seed=6).requires_grad_()
    errors = model.errors(**given, patches=patches)
    errors.sum().backward()
    assert bool((patches.grad.abs().sum(dim=-1) > 0).all())  # every patch of every frame
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in model.parameters())
    with pytest.raises(ValueError, match="against condition=patches"):
        model.errors(**given)
    with pytest.raises(ValueError, match="against condition=class"):
        build().errors(**given, patches=patches)
    with pytest.raises(ValueError, match="patches is"):
        model.errors(**given, patches=patches[:, :, :8])


@pytest.mark.parametrize("frames", [1, 3])
def test_all_parameters_learn(frames: int) -> None:
    model = build()
    model.errors(**batch(frames)).mean().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in model.parameters())


def small_tower() -> Any:
    part = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    architecture = {
        "model_type": "clip",
        "vision_config": part | {"image_size": 16, "patch_size": 8, "projection_dim": WIDTH},
        "text_config": part | {"vocab_size": 20, "max_position_embeddings": 8, "projection_dim": WIDTH},
        "projection_dim": WIDTH,
    }
    return load_tower(weights="random", architecture=architecture)


@pytest.mark.parametrize("condition", ["class", "patches"])
def test_gradients_reach_the_tower_through_the_loss(condition: str) -> None:
    tower = small_tower()
    add_lora(tower.vision, targets=["q_proj", "v_proj", "fc1", "fc2"], rank=2, alpha=2)
    model = build(condition=condition, patch_width=16 if condition == "patches" else None)
    pixels = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    given = batch(2) | {"embeddings": tower.images(pixels).unflatten(0, (2, 2))}
    if condition == "patches":
        seen = tower(pixels)
        given |= {"embeddings": seen.embeddings.unflatten(0, (2, 2)), "patches": seen.patches.unflatten(0, (2, 2))}
    model.errors(**given).mean().backward()
    second = {name: each.grad for name, each in tower.named_parameters() if "lora_B" in name}
    assert len(second) == 8
    assert all(grad is not None and grad.abs().sum() > 0 for grad in second.values())
    assert all(each.grad is None for name, each in tower.named_parameters() if "lora_" not in name)


def test_under_autocast_the_loss_is_float32_and_near() -> None:
    model, given = build(), batch(2)
    with torch.autocast("cpu", torch.bfloat16):
        errors = model.errors(**given)
    assert errors.dtype == torch.float32
    torch.testing.assert_close(errors, model.errors(**given), rtol=0.05, atol=0.0)


def test_a_sample_depends_on_its_own_generator_alone() -> None:
    model, given = build(), batch(2)

    def sample(rows: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        picked = {name: given[name][rows] for name in ("embeddings", "times")}
        return model.sample(**picked, shape=SHAPE, steps=3, generators=generators)

    both = sample([0, 1])
    assert (both.shape, both.dtype) == ((2, *SHAPE), torch.float32)
    torch.testing.assert_close(both[1:], sample([1]), rtol=1e-4, atol=1e-5)
    assert not both.requires_grad


def test_a_few_steps_of_training_bring_the_sample_to_its_target() -> None:
    """One image, learned by heart: the sign of the flow and the way back agree."""
    model = build(time_scale=None)
    given = batch(1, rows=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(150):
        four = {name: each.expand(4, *each.shape[1:]) for name, each in given.items() if name != "draws"}
        noisy = stack([draw(0, "train", 4 * step + row, shape=SHAPE) for row in range(4)])
        loss = model.errors(**four, draws=noisy).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    made = model.sample(
        given["embeddings"], given["times"], shape=SHAPE, steps=10, generators=[torch.Generator().manual_seed(8)]
    )
    far = float((normal(1, *SHAPE, seed=8) - given["latents"]).square().mean())
    assert float((made - given["latents"]).square().mean()) < 0.25 * far


def test_published_size() -> None:
    with torch.device("meta"):
        image = Reconstructor(denoiser=partial(build_denoiser, architecture=PUBLISHED), width=768)
        errors = image.errors(
            torch.zeros(2, 1, 768),
            torch.zeros(2, 2),
            torch.zeros(2, 16, 28, 28),
            Draws(torch.zeros(2, 16, 28, 28), torch.zeros(2, 16, 28, 28), torch.zeros(2)),
        )
    assert errors.shape == (2,)
    assert sum(each.numel() for each in image.parameters()) == 1_310_154_816 + 1_182_720 + 19_932_672
    assert len(image.units()) == 6


def test_bad_settings_are_refused() -> None:
    for settings in ({"condition": "class", "patch_width": 8}, {"condition": "patches"}, {"condition": "tokens"}):
        with pytest.raises(ValueError, match=r"model\.reconstructor\.condition"):
            build(**settings)
    with pytest.raises(ValueError, match="times is"):
        build().errors(**batch(2) | {"times": torch.zeros(2, 2)})
    assert isinstance(build().heads, Heads)
    assert ARCHITECTURE["guidance_embeds"]


@pytest.mark.parametrize(
    ("pixels", "frames", "patches", "teraflops"),
    [(224, 1, 0, 0.272), (336, 1, 0, 0.616), (336, 2, 0, 0.618), (336, 2, 576, 2.406)],
)
def test_cost_of_a_pass_at_published_size(pixels: int, frames: int, patches: int, teraflops: float) -> None:
    """442 tokens cost 0.616 TFLOP; a second frame hardly more, all patches of two frames four times as much."""
    cells = pixels // 8
    with torch.device("meta"):
        noise = torch.zeros(1, 16, cells, cells)
        model = Reconstructor(
            denoiser=partial(build_denoiser, architecture=PUBLISHED),
            width=768,
            condition="patches" if patches else "class",
            patch_width=1024 if patches else None,
        )
        with FlopCounterMode(display=False) as counter:
            model.errors(
                torch.zeros(1, frames, 768),
                torch.zeros(1, frames + 1),
                noise,
                Draws(noise, noise, torch.zeros(1)),
                patches=torch.zeros(1, frames, patches, 1024) if patches else None,
            )
    assert round(counter.get_total_flops() / 1e12, 3) == teraflops
