"""The benchmark of steps: its figures, and that caches change neither the loss nor what is left to compute."""

from functools import partial
from typing import Any

import pytest
import torch

from common.encoders.tower import load_tower
from common.latent.vae import LatentCodec
from common.measure import Clock
from projects.genhancer.step_benchmark import BOTH, LATENTS, ON_THE_FLY, PARTS, Steps, step_benchmark
from tests.projects.genhancer.small_run import CLIP, SIZE, TARGET, make_module

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"conditions": 1, "size": TARGET, "batch": 2, "rounds": 1, "precision": "32-true", "seed": 0}


TOWER: dict[str, Any] = {
    "model_type": "clip",
    "projection_dim": 64,
    "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": 16,
    },
}


def recipe(**changes: Any) -> Any:
    tower = partial(load_tower, weights="random", architecture=TOWER, tokenizer=CLIP)
    return partial(make_module, tower=tower, **changes)


@pytest.mark.parametrize(("second", "kinds"), [(False, (ON_THE_FLY, LATENTS, BOTH)), (True, (ON_THE_FLY, LATENTS))])
def test_figures(second: bool, kinds: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    figures = step_benchmark(module=recipe(second=second), device="cpu", **SMALL)
    costs = [figures[f"{kind}_tflop"] for kind in kinds]
    assert costs == sorted(costs, reverse=True)
    assert min(costs) > 0
    assert {name for name in figures if name.endswith("_tflop")} == {f"{kind}_tflop" for kind in kinds}
    for kind in kinds[1:]:
        assert figures[f"{kind}_ratio_least"] <= figures[f"{kind}_ratio"] <= figures[f"{kind}_ratio_most"]
        assert figures[f"{kind}_difference"] < 1e-5
    assert f"2 samples of 1 + 1 frames, target {TARGET} px, cpu, 32-true" in capsys.readouterr().out


def test_operations_are_counted_without_computing() -> None:
    counted = step_benchmark(module=recipe(), device="meta", **SMALL)
    assert set(counted) == {f"{kind}_tflop" for kind in (ON_THE_FLY, LATENTS, BOTH)}
    more = step_benchmark(module=recipe(), device="meta", **SMALL | {"conditions": 2, "batch": 1})
    assert more[f"{BOTH}_tflop"] > counted[f"{BOTH}_tflop"]  # another token of context
    tower = [each[f"{LATENTS}_tflop"] - each[f"{BOTH}_tflop"] for each in (counted, more)]
    assert tower[1] == pytest.approx(2 * tower[0])


def test_what_is_cached_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(recipe()(), device=CPU)
    fresh = steps.batch(rows=2, conditions=1, size=TARGET, seed=0)
    given = {kind: steps.kept(fresh, kind, Clock(CPU, PARTS)) for kind in steps.kinds}
    monkeypatch.setattr(LatentCodec, "encode", lambda *_: pytest.fail("the autoencoder ran"))
    clock = Clock(CPU, PARTS)
    steps.step(given[LATENTS], clock, precision="32-true")
    assert clock.seconds["targets"] == 0 < clock.seconds["conditions"]
    clock = Clock(CPU, PARTS)
    steps.step(given[BOTH], clock, precision="32-true")
    assert clock.seconds["targets"] == clock.seconds["conditions"] == 0 < clock.seconds["backward"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "neither may be 0"),
        ({"batch": 0}, "neither may be 0"),
        ({"precision": "16-mixed"}, "precision=16-mixed is not one of"),
        ({"device": "cuda:99"}, "there is auto, cpu"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step_benchmark(**{"module": recipe(), "device": "cpu"} | SMALL | changes)
