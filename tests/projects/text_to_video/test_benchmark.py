"""The benchmark of the distributed kind: its rows, that sharing and caching change no loss, what is predicted."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import build, check
from common.measure import Clock, operations
from launchers.command import compose
from projects.text_to_video.benchmark import CASES, differences, predict
from projects.text_to_video.benchmark_rows import Case, Row, gains, records
from projects.text_to_video.benchmark_steps import PARTS, TARGETS, OnceATarget, Steps
from projects.text_to_video.conditioner import Conditioner

CPU = torch.device("cpu")
TINY = "model@task.module=text_to_video_distributed_tiny"
FEW = {"size": 32, "batch": 2, "rounds": 1}


def task(*overrides: str) -> Any:
    cfg = compose(
        "task=text_to_video_benchmark", "+task._partial_=true", "paths.run=run", *overrides, config_name="prepare"
    )
    check(cfg)
    return cfg.task


def recipe(**changes: Any) -> partial[dict[str, float]]:
    return partial(build(task(TINY)), **{**FEW, **changes})


@pytest.fixture(scope="module")
def module() -> Callable[[], Any]:
    made: Callable[[], Any] = build(task(TINY).module)
    return made


@pytest.fixture(scope="module")
def steps(module: Callable[[], Any]) -> Steps:
    return Steps(module(), device=CPU)


@pytest.fixture(scope="module")
def batches(steps: Steps) -> Any:
    return steps.batches(rows=2, size=32, seed=0)


@pytest.fixture(scope="module")
def counts(module: Callable[[], Any]) -> dict[Case, int]:
    return predict(module, rows=2, size=32)


def test_a_row_for_each_case_and_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = recipe(record=str(tmp_path / "new" / "figures.json"))()
    made = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert [Case(*(row[name] for name in Case._fields)) for row in made["rows"]] == CASES
    assert len(CASES) == 12
    assert made["figures"] == figures
    assert figures["shared_difference"] < 1e-5
    assert figures["cached_difference"] == 0
    assert figures["cached_encoder_calls"] == 0
    for row in made["rows"]:
        assert 0 < row["clips_per_second_least"] <= row["clips_per_second"] <= row["clips_per_second_most"]
        assert row["target_frames_per_second"] == row["clips_per_second"] * row["targets"]
        assert row["loss"] > 0
    shown = capsys.readouterr().out
    assert "2 clips of 16 frames of 32 px, cpu, 32-true" in shown
    assert "0 calls of the autoencoder in cached steps" in shown


@pytest.mark.parametrize("targets", TARGETS)
def test_gradients_too_are_the_same_shared_and_not(steps: Steps, batches: Any, targets: int) -> None:
    found = {}
    for shared in (True, False):
        steps.optimizer.zero_grad()
        steps.forward(Case(targets, shared=shared, cached=True), batches).backward()
        found[shared] = {
            name.replace("conditioner.conditioner", "conditioner"): parameter.grad
            for name, parameter in steps.kind.named_parameters()
            if parameter.grad is not None
        }
    steps.optimizer.zero_grad()
    assert found[True].keys() == found[False].keys()
    for name, gradient in found[True].items():
        torch.testing.assert_close(found[False][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_the_context_has_a_part_in_the_loss(steps: Steps, batches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(4, shared=True, cached=True)
    with torch.no_grad():
        usual = steps.forward(case, batches)
        original = Conditioner.forward
        monkeypatch.setattr(Conditioner, "forward", lambda *a, **k: -original(*a, **k))
        assert abs(steps.forward(case, batches) - usual) > 1e-3


def test_a_step_leaves_the_weights_as_they_are_and_encodes_in_its_own_cases_alone(steps: Steps, batches: Any) -> None:
    before = {name: tensor.clone() for name, tensor in steps.kind.state_dict().items()}
    calls, losses = [], []
    for cached in (True, False):
        clock, start = Clock(CPU, PARTS), steps.encoder_calls
        losses.append(steps.step(Case(1, shared=True, cached=cached), batches, clock, precision="32-true"))
        assert all(seconds > 0 for seconds in clock.seconds.values())
        calls.append(steps.encoder_calls - start)
    assert calls == [0, 1]
    assert losses[0] == losses[1]
    after = {
        name.replace("conditioner.conditioner", "conditioner"): each for name, each in steps.kind.state_dict().items()
    }
    for name, tensor in before.items():
        assert torch.equal(after[name.replace("conditioner.conditioner", "conditioner")], tensor), name


def test_operations_saved_by_sharing_are_those_of_keys_and_values(steps: Steps, counts: dict[Case, int]) -> None:
    """Of each further target frame: patches of all frames, and in each layer the projection of their tokens."""
    conditioner = steps.kind.conditioner
    whole: Conditioner = conditioner.conditioner if isinstance(conditioner, OnceATarget) else conditioner
    cells = whole.frames * (8 // whole.patch) ** 2
    projection = 2 * (cells + 1) * whole.width * whole.layers[0].attention.to_kv.out_features  # and the time
    patches = 2 * cells * whole.patches.weight.numel()
    for targets in TARGETS:
        own, shared = (counts[Case(targets, shared=each, cached=True)] for each in (False, True))
        # forward, and backward for weights and inputs; the latents themselves need no gradient
        each = 3 * len(whole.layers) * projection + 2 * patches
        assert own - shared == 2 * (targets - 1) * each  # of two clips


def test_operations_are_those_of_the_real_steps(steps: Steps, batches: Any, counts: dict[Case, int]) -> None:
    for case in (Case(1, shared=True, cached=False), Case(8, shared=False, cached=True)):
        _, count = operations(lambda case=case: steps.forward(case, batches).backward())
        assert count == counts[case]
    steps.optimizer.zero_grad()
    for case in CASES:
        assert counts[case._replace(cached=False)] > counts[case._replace(cached=True)]


def rows_of(**losses: float) -> dict[Case, Row]:
    rows = {}
    for case in CASES:
        seconds = case.targets * (1 if case.shared else 2) + (0 if case.cached else 10)
        loss = losses.get("own", 1.0) if not case.shared else losses.get("encoded", 1.0) if not case.cached else 1.0
        rows[case] = Row(case, 2, 3.0 * seconds, [seconds, 2.0 * seconds], [loss])
    return rows


def test_figures_of_known_times() -> None:
    rows = rows_of()
    figures = gains(rows)
    assert figures["shared_m4"] == figures["shared_m4_predicted"] == 2
    assert figures["cached_m1"] == figures["cached_m1_predicted"] == 11
    record = records(rows)[CASES.index(Case(8, shared=True, cached=True))]
    assert record["clips_per_second_least"], record["clips_per_second_most"] == (2 / 16, 2 / 8)
    assert record["target_frames_per_second"] == 8 * (2 / 8 + 2 / 16) / 2
    assert record["tflop_per_target_frame"] == 3.0
    assert record["speedup"] == record["speedup_predicted"] == 2  # a target frame in 1 s, published in 2 s


def test_steps_that_are_not_the_same_are_seen() -> None:
    assert differences(rows_of()) == {"shared_difference": 0, "cached_difference": 0}
    assert differences(rows_of(own=1.5))["shared_difference"] == pytest.approx(0.5)
    assert differences(rows_of(encoded=1.25))["cached_difference"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "neither may be 0"),
        ({"batch": 0}, "neither may be 0"),
        ({"precision": "16-mixed"}, "precision=16-mixed is not one of 32-true, bf16-mixed"),
        ({"device": "cuda:99"}, "there is auto, cpu"),
        ({"size": 36}, "latents of 9 x 9 are not whole patches"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**changes)()


def test_another_kind_is_refused() -> None:
    joint = "model@task.module=text_to_video_joint_tiny"
    with pytest.raises(ValueError, match="kind is Joint: only Distributed"):
        Steps(build(task(joint, "~task.module.kind.published_init").module)(), device=CPU)


def test_the_quarter_is_a_quarter_of_the_published_width_in_every_part() -> None:
    sizes = {}
    for name, side in (("random", 64), ("quarter", 16)):
        model = compose(
            "task=text_to_video_benchmark",
            f"model@task.module=text_to_video_distributed_{name}",
            "paths.run=r",
            config_name="prepare",
        ).task.module
        with torch.device("meta"):
            unet = build(model.kind.unet)()
            codec = build(model.vae)()
            assert unet.config.sample_size == side
        sizes[name] = [
            sum(
                part.weight.numel()
                for part in whole.modules()
                if isinstance(part, torch.nn.Conv2d) and part.kernel_size == (3, 3)
            )
            for whole in (unet, codec)
        ]
        if name == "random":
            assert sum(each.numel() for each in unet.parameters()) == 865_910_724
    for published, quarter in zip(*sizes.values(), strict=True):
        assert published / quarter == pytest.approx(16, rel=0.03)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda(tmp_path: Path) -> None:
    figures = recipe(device="cuda", precision="bf16-mixed", record=str(tmp_path / "figures.json"))()
    assert figures["cached_encoder_calls"] == 0
    assert figures["peak_gib"] > 0
