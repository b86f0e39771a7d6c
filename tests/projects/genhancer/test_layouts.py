"""Exports: a CLIP that plain transformers reads, the published names, and a tower that is not its base."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from common.checkpoint import CheckpointError
from common.config import ROOT
from common.export import Request, TrainedRun, read_run
from common.weights.source import WeightsError
from projects.genhancer.layouts import LAYOUTS
from tests.common.runs import make_run
from tests.projects.genhancer.small_run import ADAPTERS, CLIP, LORA, TOWER, Squares, batch_of, configured

TARGET = "projects.genhancer.module.GenHancer"
# Loads an export as anyone would, in a process that has not seen this project.
READ = """
import sys, torch
from transformers import CLIPModel, AutoTokenizer
model = CLIPModel.from_pretrained(sys.argv[1]).eval()
assert not any(name.startswith(("common", "projects")) for name in sys.modules)
pixels, ids = torch.load(sys.argv[2])
with torch.no_grad():
    found = model.vision_model(pixel_values=pixels).pooler_output
    told = model.text_model(input_ids=ids).pooler_output
    torch.save((model.visual_projection(found), model.text_projection(told)), sys.argv[3])
"""


def node(**changes: Any) -> dict[str, Any]:
    """The part of a configuration that exports read; the rest is there by name alone."""
    unread = ("vae", "reconstructor", "scores", "sampling", "optimizer", "tower_lr", "weight_decay", "schedule")
    return {
        **dict.fromkeys(unread),
        "tower": TOWER,
        "adapters": {**ADAPTERS, "biases": True},
        "whole": False,
        "stage1": None,
        "load_step": "last",
        **changes,
    }


def trained(seed: int = 0, *, whole: bool = False) -> Any:
    """A module of the second stage with numbers of its own in all that trains."""
    changes: dict[str, Any] = {"adapters": None, "whole": True} if whole else {}
    if not whole:
        changes["adapters"] = partial(LORA, biases=True)
    module = configured(second=True, **changes)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=source))
    return module.eval()


def run_of(folder: Path, module: Any, **changes: Any) -> TrainedRun:
    state = {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}
    return read_run(make_run(folder, state, target=TARGET, **node(**changes)))


def write(run: TrainedRun, folder: Path, layout: str, **request: Any) -> dict[str, Any]:
    folder.mkdir()
    return dict(LAYOUTS[layout].write(run, folder, Request(**request)))


@pytest.fixture(scope="module")
def module() -> Any:
    return trained()


@pytest.mark.parametrize("layout", ["clip", "clip_bin"])
def test_plain_transformers_sees_and_reads_the_same(layout: str, module: Any, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    write(run_of(tmp_path / "run", module), folder, layout)
    pictures = batch_of(Squares(rows=3)).conditions
    assert pictures is not None
    words = ["a red circle", "a blue square at the top"]
    pixels = module.tower._normal(pictures[:, 0])
    torch.save((pixels, module.tower.tokenise(words)), tmp_path / "asked")
    arguments = [str(folder), str(tmp_path / "asked"), str(tmp_path / "told")]
    subprocess.run([sys.executable, "-c", READ, *arguments], check=True, cwd=tmp_path, capture_output=True)
    images, texts = torch.load(tmp_path / "told")
    torch.testing.assert_close(images, module.tower.images(pictures[:, 0]).detach(), rtol=1e-4, atol=1e-4)
    base = module.recipes["tower"]()
    assert torch.equal(texts, base.texts(words))  # bit by bit
    assert (folder / "pytorch_model.bin").is_file() == (layout == "clip_bin")
    assert (folder / "model.safetensors").is_file() == (layout == "clip")
    for name in ("preprocessor_config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (ROOT / "common/tiny/weights/clip" / name).read_bytes()
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["CLIPModel"]


def test_a_tower_that_learned_whole(tmp_path: Path) -> None:
    module = trained(whole=True)
    run = run_of(tmp_path / "run", module, adapters=None, whole=True)
    write(run, tmp_path / "clip", "clip")
    found = load_file(tmp_path / "clip" / "model.safetensors")
    own = module.tower.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in own.items())


def test_adapters_are_merged_in_float32_whatever_the_base(module: Any, tmp_path: Path) -> None:
    """Small changes of a base in half precision are not rounded away."""
    base = module.recipes["tower"]().model.state_dict()
    run = run_of(tmp_path / "run", module, tower={**TOWER, "dtype": "bfloat16"})
    figures = write(run, tmp_path / "clip", "clip")
    found = load_file(tmp_path / "clip" / "model.safetensors")
    name = "vision_model.encoder.layers.0.self_attn.q_proj"
    factors = {key: value for key, value in run.state.items() if f"{name}.lora_" in key}
    first, second = (next(value for key, value in factors.items() if part in key) for part in ("lora_A", "lora_B"))
    wanted: Tensor = base[f"{name}.weight"] + 2.0 * second @ first
    torch.testing.assert_close(found[f"{name}.weight"], wanted, rtol=0, atol=1e-7)
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert figures["changed"] == 4 * 3 * 2 + 1  # weights and biases of three layers a block, and the projection


def test_a_tower_that_equals_its_base_is_not_exported(tmp_path: Path) -> None:
    """What the published video mode gave."""
    with pytest.raises(WeightsError, match="the tower equals its base"):
        write(run_of(tmp_path / "run", configured(second=True), adapters=ADAPTERS), tmp_path / "clip", "clip")


def test_a_first_stage_has_no_tower_to_export(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", configured(), adapters=None)
    with pytest.raises(WeightsError, match=r"leaves CLIP as it is; take export\.layout=published"):
        write(run, tmp_path / "clip", "clip")
    figures = write(run, tmp_path / "published", "published")
    names = {path.name for path in (tmp_path / "published").iterdir()}
    assert names == {f"checkpoint-{name}-7.safetensors" for name in ("dit", "project-clip", "visual-adapter")}
    dit = load_file(tmp_path / "published" / "checkpoint-dit-7.safetensors")
    assert {name.split(".")[0] for name in dit} >= {"img_in", "txt_in", "double_blocks", "single_blocks", "final_layer"}
    assert sum(value.nbytes for value in dit.values()) == figures["dit"]
    assert sum(figures.values()) == sum(4 * value.numel() for value in run.state.values())


def test_other_adapters_than_the_run_had_are_refused(module: Any, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", module, adapters={**ADAPTERS, "targets": ["fc1"], "biases": True})
    with pytest.raises(CheckpointError, match="not trained here"):
        write(run, tmp_path / "clip", "clip")


@pytest.mark.parametrize("kind", ["published", "published_bin"])
def test_the_names_of_the_guide(kind: str, module: Any, tmp_path: Path) -> None:
    named = tmp_path / "clip-vit-large-patch14-336"
    named.symlink_to(CLIP)
    run = run_of(tmp_path / "run", module, tower={**TOWER, "weights": str(named)})
    content = torch.load(run.checkpoint, weights_only=True)
    moments = {"exp_avg": torch.ones(2), "step": torch.tensor(3.0)}
    content["optimizer_states"] = [{"state": {0: moments}, "param_groups": [{"lr": 0.1, "params": [0]}]}]
    torch.save(content, run.checkpoint)
    folder = tmp_path / "out"
    write(run, folder, kind)
    suffix = "bin" if kind == "published_bin" else "safetensors"
    files = {path.name for path in folder.iterdir() if path.suffix == f".{suffix}"}
    parts = ("checkpoint-dit", "checkpoint-project-clip", "checkpoint-visual-adapter", "optimizer-state")
    assert files == {f"{part}-7.{suffix}" for part in parts}
    clip = folder / "clip-vit-large-patch14-336-7"
    weights = "pytorch_model.bin" if kind == "published_bin" else "model.safetensors"
    assert {"config.json", "preprocessor_config.json", "tokenizer.json", weights} <= {
        path.name for path in clip.iterdir()
    }
    path = folder / f"optimizer-state-7.{suffix}"
    state = torch.load(path, weights_only=True) if suffix == "bin" else load_file(path)
    assert state.keys() == {"0.exp_avg", "0.step"}


def test_a_run_that_trained_the_tower_only_takes_the_denoiser_of_its_first_stage(module: Any, tmp_path: Path) -> None:
    first = configured()
    state = {name: value.detach() for name, value in first.named_parameters()}
    make_run(tmp_path / "first", state, target=TARGET, **node(adapters=None))
    only = {name: value.detach() for name, value in module.tower.named_parameters() if value.requires_grad}
    second = make_run(
        tmp_path / "second",
        {f"tower.{name}": value for name, value in only.items()},
        target=TARGET,
        **node(stage1=str(tmp_path / "first")),
    )
    (tmp_path / "first" / "checkpoints" / "last").write_text("step_0000007.ckpt\n")
    write(read_run(second), tmp_path / "out", "published")
    found = load_file(tmp_path / "out" / "checkpoint-project-clip-7.safetensors")
    for name, value in found.items():
        assert torch.equal(value, state[f"reconstructor.heads.to_vector.{name}"])
