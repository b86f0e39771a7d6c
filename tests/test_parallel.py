"""Two processes give what one gives: losses, weights and optimizer state, however the work is split."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from common.checkpoint import committed, load_file, locate
from common.loggers import read_metrics
from launchers.command import compose
from tests.experiments import matrix
from tests.stages import first_stage

pytestmark = pytest.mark.slow

# Four rows of a step on each of two processes or eight on one, clipped at every step.
SMALL = [
    "steps=5",
    "validate_every=3",
    "batch.global=8",
    "batch.eval=3",
    "trainer.gradient_clip_val=0.1",
    "callbacks.checkpointing.every=4",
    "callbacks.metrics_log.every=1",
    "prepare=[]",
]
TWO = [
    "hw=cpu",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "trainer.precision=32-true",
    "data.num_workers=0",
    "data.pin_memory=false",
    "batch.micro=1",
]
NO_DEEPSPEED = importlib.util.find_spec("deepspeed") is None
needs_deepspeed = pytest.mark.skipif(NO_DEEPSPEED, reason="deepspeed is not installed (pip install -e '.[deepspeed]')")
ONE = ["batch.micro=2"]
WAYS = {
    "ddp": ["hardware=cpu", *TWO, "trainer.strategy=ddp"],
    "fsdp": ["hardware=a100x8_fsdp", *TWO],
    "zero2": ["hardware=a100x8_zero2", *TWO],
}
EXPERIMENTS = matrix("*_tiny*.yaml")

# Answers are put together under autocast, which on the CPU refuses the float16 of cached features.
BF16 = ["trainer.precision=bf16-mixed", "callbacks=default"]

Train = Callable[..., Path]


def launch(folder: Path, *overrides: str, module: str = "launchers.train") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *SMALL, *overrides, f"paths.outputs='{folder}'"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def train(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains on 7 validation questions, of which one process of two gets a batch more; each run once."""
    done: dict[tuple[str, ...], Path] = {}  # by module and overrides
    rows = json.loads((shapes / "shapes" / "chat" / "val.json").read_text())[:7]
    uneven = shapes / "shapes" / "chat" / "uneven.json"
    uneven.write_text(json.dumps(rows))

    def run(*overrides: str, module: str = "launchers.train") -> Path:
        key = (module, *overrides)
        if key not in done:
            folder = tmp_path_factory.mktemp("run")
            few = [f"data.val.annotations='{uneven}'"] if asks_questions(overrides[0]) else []
            few += first_stage(overrides[0].partition("=")[2], shapes)
            ended = launch(folder, f"paths.data='{shapes}'", *few, *overrides, module=module)
            assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-6000:]
            done[key] = locate("last", folder).parents[1]
            (done[key] / "output").write_text(ended.stdout + ended.stderr)
        return done[key]

    return run


def asks_questions(experiment: str) -> bool:
    """Whether the rows of an experiment are questions in a file of annotations."""
    return "annotations" in compose(experiment).data.val


def without_average(experiment: str) -> list[str]:
    """What takes the average of the weights out of an experiment that keeps one."""
    return ["~callbacks.ema"] if "ema" in compose(experiment).callbacks else []


def averages(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The average of a checkpoint; empty where it has none."""
    state: dict[str, torch.Tensor] = content["callbacks"].get("Ema", {}).get("shadow", {})
    return state


def losses(run: Path) -> dict[tuple[str, int], float]:
    table = read_metrics(run / "metrics.csv")
    return {(name, step): value for name in ("train/loss", "val/loss") for step, value in table[name].items()}


def last(run: Path) -> dict[str, Any]:
    return load_file(committed(run / "checkpoints")[-1])


def assert_same_run(ours: Path, reference: Path) -> None:
    assert losses(ours) == pytest.approx(losses(reference), rel=2e-5, abs=1e-6)
    mine, theirs = last(ours), last(reference)
    assert mine["global_step"] == 5
    assert list(mine["state_dict"]) == list(theirs["state_dict"])
    for name, value in theirs["state_dict"].items():
        assert_near(mine["state_dict"][name], value, name, rtol=1e-4, atol=2e-5)
    assert averages(mine).keys() == averages(theirs).keys()
    for name, value in averages(theirs).items():
        assert_near(averages(mine)[name], value, f"average {name}", rtol=1e-4, atol=2e-5)
    (state,), (expected,) = mine["optimizer_states"], theirs["optimizer_states"]
    assert [group["params"] for group in state["param_groups"]] == [g["params"] for g in expected["param_groups"]]
    assert state["state"].keys() == expected["state"].keys()
    for number, content in expected["state"].items():
        assert state["state"][number].keys() == content.keys()
        for name, value in content.items():  # the moments are linear in the clipped gradients
            near = 5e-4 * float(value.abs().max())
            assert_near(state["state"][number][name], value, f"{number} {name}", rtol=1e-3, atol=near)


def assert_near(ours: torch.Tensor, theirs: torch.Tensor, name: str, *, rtol: float, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol, msg=lambda told: f"{name}: {told}")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("way", ["ddp", "fsdp", pytest.param("zero2", marks=needs_deepspeed)])
def test_two_processes_are_one(way: str, experiment: str, train: Train) -> None:
    chosen = [f"experiment={experiment}"]
    chosen += without_average(chosen[0]) if way == "zero2" else []
    assert_same_run(train(*chosen, *WAYS[way]), train(*chosen, *ONE))


@pytest.mark.nightly
@pytest.mark.parametrize("experiment", ["video_chatgpt_tiny_projector", "video_chatgpt_lora_tiny"])
def test_frozen_bfloat16_beside_trained_float32(experiment: str, train: Train) -> None:
    mixed = [f"experiment={experiment}", "model.language_model.dtype=bfloat16"]
    ours = train(*mixed, *WAYS["fsdp"], *BF16, "model.language_model.checkpoint_fraction=1.0")
    reference = train(*mixed, *ONE, *BF16)
    assert losses(ours) == pytest.approx(losses(reference), rel=0.02)
    assert {value.dtype for value in last(ours)["state_dict"].values()} == {torch.float32}


@pytest.mark.parametrize("way", ["fsdp", pytest.param("zero2", marks=needs_deepspeed)])
def test_masters_are_float32_while_products_are_bfloat16(way: str, train: Train) -> None:
    mixed = ["experiment=video_chatgpt_tiny"]
    ours = train(*mixed, *WAYS[way], *BF16)
    reference = train(*mixed, *ONE, *BF16)
    assert losses(ours) == pytest.approx(losses(reference), rel=0.03)
    values = last(ours)["state_dict"].values()
    assert {value.dtype for value in values} == {torch.float32}
    assert any(not torch.equal(value, value.bfloat16().float()) for value in values)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("way", ["fsdp", pytest.param("zero2", marks=needs_deepspeed)])
def test_in_bfloat16_as_a_gpu_has_it(way: str, experiment: str, train: Train) -> None:
    chosen = [f"experiment={experiment}", *without_average(f"experiment={experiment}")]
    ours = train(*chosen, *WAYS[way], BF16[0], module="tests.gpu_autocast")
    reference = train(*chosen, *ONE, BF16[0], module="tests.gpu_autocast")
    assert losses(ours) == pytest.approx(losses(reference), rel=0.05)  # the exact comparison is that in float32


def test_the_start_from_another_run_is_split_too(train: Train) -> None:
    init = f"init={committed(train('experiment=video_chatgpt_tiny', *ONE) / 'checkpoints')[-1]}"
    chosen = ["experiment=video_chatgpt_tiny", init]
    assert_same_run(train(*chosen, *WAYS["fsdp"]), train(*chosen, *ONE))


def test_a_precision_that_fsdp_does_not_have_is_named(shapes: Path, tmp_path: Path) -> None:
    ended = launch(tmp_path, f"paths.data='{shapes}'", *WAYS["fsdp"], "trainer.precision=bf16-true")
    assert ended.returncode != 0
    assert "trainer.precision=bf16-true with FSDP; choose one of 32-true, bf16-mixed" in ended.stdout + ended.stderr


@needs_deepspeed
def test_deepspeed_shows_every_auto_with_its_value(train: Train) -> None:
    output = (train("experiment=video_chatgpt_tiny", *WAYS["zero2"]) / "output").read_text()
    text = output.partition("every auto from the run:\n")[2]
    shown, _ = json.JSONDecoder().raw_decode(text)
    assert '"auto"' not in json.dumps(shown)
    assert shown["train_batch_size"] == 8
    assert shown["gradient_accumulation_steps"] == 4
    assert shown["train_micro_batch_size_per_gpu"] == 1
    assert shown["gradient_clipping"] == 0.1
    assert shown["optimizer"]["params"]["lr"]["projector"] == 3e-3
    assert shown["optimizer"]["params"]["lr"]["language_model"] == 1e-3
    assert shown["scheduler"]["params"]["total_num_steps"] == 5


@pytest.mark.skipif(not NO_DEEPSPEED, reason="deepspeed is installed")
def test_without_deepspeed_the_message_says_how_to_get_it(shapes: Path, tmp_path: Path) -> None:
    ended = launch(tmp_path, f"paths.data='{shapes}'", *WAYS["zero2"])
    assert ended.returncode != 0
    assert "pip install -e '.[deepspeed]'" in ended.stdout + ended.stderr
