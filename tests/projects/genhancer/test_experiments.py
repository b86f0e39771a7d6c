"""The experiments carry the numbers of the paper and of the guide."""

from typing import Any

import pytest

from common.config import build, plain
from launchers.command import compose

MODES = ("image", "video")


def config(experiment: str, *overrides: str) -> dict[str, Any]:
    return plain(compose(f"experiment=genhancer_{experiment}", "paths.run=.", *overrides))


@pytest.mark.parametrize("mode", MODES)
def test_the_numbers_of_the_paper(mode: str) -> None:
    first, second = config(f"{mode}_stage1"), config(f"{mode}_stage2")
    assert (first["steps"], second["steps"]) == (100_000, 5_000)
    assert first["batch"]["global"] == second["batch"]["global"] == 256
    assert (first["model"]["lr"], second["model"]["lr"], second["model"]["tower_lr"]) == (1e-4, 1e-5, 1e-5)
    assert first["model"]["adapters"] is None
    adapters = second["model"]["adapters"]
    assert (adapters["rank"], adapters["alpha"], adapters["dropout"]) == (16, 16, 0.1)
    assert (second["validate_every"], second["objective"], second["direction"]) == (500, "val/pairs", "max")
    assert second["model"]["stage1"] == f"outputs/{first['name']}"
    assert second["model"]["reconstructor"] == first["model"]["reconstructor"]
    for cfg in (first, second):
        assert cfg["model"]["optimizer"]["betas"] == [0.9, 0.999]
        assert cfg["model"]["weight_decay"] == 0.01
        assert cfg["trainer"]["gradient_clip_val"] == 1.0


@pytest.mark.parametrize("mode", MODES)
def test_the_numbers_of_the_guide(mode: str) -> None:
    first, second = config(f"{mode}_stage1_guide"), config(f"{mode}_stage2_guide")
    assert (first["steps"], second["steps"]) == (626, 1_000)
    assert first["batch"]["global"] == second["batch"]["global"] == 32
    saved = {name: cfg["callbacks"]["checkpointing"] for name, cfg in (("first", first), ("second", second))}
    assert saved["first"]["every"] == 313
    steps = {*range(200, 1_001, 200), *saved["second"]["also"]}
    assert saved["second"]["every"] == 200
    assert steps == {50, 100, 200, 300, 400, 500, 600, 800, 1_000}
    assert saved["second"]["keep_last"] == len(steps)  # none is dropped
    assert second["model"]["load_step"] in (313, 626)
    assert second["model"]["stage1"] == f"outputs/{first['name']}"
    for cfg in (first, second):
        assert cfg["model"]["tower"]["weights"] == "openai/clip-vit-large-patch14-336"
        assert cfg["data"]["train"]["size"] == cfg["data"]["train"]["target"] == 336


@pytest.mark.parametrize(
    ("model", "data", "cells"),
    [
        ("genhancer", "cc3m", 28),
        ("genhancer_openai_336", "cc3m_336", 42),
        ("genhancer_openai_336", "something_clips", 42),
        ("genhancer_siglip_384", "cc3m_384", 48),
    ],
)
def test_latents_are_of_the_size_of_the_targets(model: str, data: str, cells: int) -> None:
    cfg = config("image_stage1", f"model={model}", f"data={data}")
    factor = 2 ** (len(cfg["model"]["vae"]["architecture"]["block_out_channels"]) - 1)
    for rows in (
        cfg["data"]["train"],
        cfg["data"]["val"],
        *cfg["data"]["test"].values(),
        cfg["data"]["predict"]["rows"],
    ):
        assert rows["latent"] == [16, cells, cells]
        assert rows["target"] == cells * factor


def test_an_example_is_a_batch_of_the_usual_shape() -> None:
    for experiment, conditions in (("image_stage1", 1), ("video_stage1", 2)):
        example = build(config(experiment)["data"]["example"])(rows=2)
        size = config(experiment)["data"]["train"]["size"]
        assert example.conditions.shape == (2, conditions, 3, size, size)
        assert example.draws.noise.shape == (2, 16, size // 8, size // 8)


@pytest.mark.parametrize(
    ("given", "found"), [(None, "black-forest-labs/FLUX.1-schnell"), ("/some/ae.safetensors",) * 2]
)
def test_the_variable_of_the_guide_names_the_autoencoder(
    given: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AE", raising=False)
    if given is not None:
        monkeypatch.setenv("AE", given)
    assert config("image_stage1")["model"]["vae"]["weights"] == found
