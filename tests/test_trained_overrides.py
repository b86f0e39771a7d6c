"""Keys of the model on the command line of evaluate and generate replace those of the run, and must be its own."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from lightning import LightningModule
from omegaconf import DictConfig

from common.config import ConfigError, build, plain
from launchers import evaluate, trained
from launchers.command import as_yaml, compose, run
from launchers.trained import checkpoint_of, model_overrides, replaced, trained_module
from tests.common.runs import make_run

SMALL = (
    "experiment=pix2pix_video_tiny",
    "model.unet.history=2",
    "model.unet.architecture.block_out_channels=[16, 32]",
    "model.unet.architecture.sample_size=4",
)
OWN = ("model.lr=0.25", "model.sampling.steps=9", "model.sampling.guidance.text_scale=3.5")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with settings of its own."""
    cfg = compose("paths.run=.", *SMALL, *OWN)
    module: LightningModule = build(plain(cfg)["model"])
    module.configure_model()
    folder = tmp_path_factory.mktemp("made") / "run"
    make_run(folder, {name: torch.full_like(value, 0.01) for name, value in module.named_parameters()})
    (folder / "config.yaml").write_text(as_yaml(cfg))
    return folder


def at_the_command(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[LightningModule, dict[str, Any]]:
    """The module that a command builds with these arguments, and the configuration that it is built from."""
    nodes: list[dict[str, Any]] = []
    modules: list[LightningModule] = []

    def build_and_note(node: dict[str, Any]) -> Any:
        nodes.append(node)
        return build(node)

    def command(cfg: DictConfig) -> None:
        modules.append(trained_module(cfg, checkpoint_of(cfg, cfg.ckpt)))

    where = (f"ckpt='{made}'", f"paths.outputs='{tmp_path}'", f"paths.data='{tmp_path}'")
    monkeypatch.setattr(trained, "build", build_and_note)
    monkeypatch.setattr(sys, "argv", ["evaluate", "experiment=pix2pix_video_tiny", *where, *arguments])
    GlobalHydra.instance().clear()
    try:
        run(command, config_name="config")
    finally:
        GlobalHydra.instance().clear()
    (node,), (module,) = nodes, modules
    return module, node


def of_the_run(made: Path) -> dict[str, Any]:
    node: dict[str, Any] = yaml.safe_load((made / "config.yaml").read_text())["model"]
    return node


def test_without_keys_the_model_is_that_of_the_run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, node = at_the_command(made, tmp_path, monkeypatch, "seed=3", "batch.eval=2", "data.num_workers=0")
    assert node == of_the_run(made)
    assert module.sampling_steps == 9
    assert all(bool((parameter == 0.01).all()) for parameter in module.parameters())


def test_a_key_replaces_that_of_the_run_and_no_other(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("model.sampling.steps=4", "model.sampling.guidance.image_scale=2.5", "++model.sampling.seed=11")
    module, node = at_the_command(made, tmp_path, monkeypatch, *arguments)
    wanted = of_the_run(made)
    wanted["sampling"] |= {"steps": 4, "seed": 11}
    wanted["sampling"]["guidance"]["image_scale"] = 2.5
    assert node == wanted
    assert (module.sampling_steps, module.sampling_seed) == (4, 11)
    assert (module.guidance.text_scale, module.guidance.image_scale) == (3.5, 2.5)


def test_a_group_of_keys_is_replaced_as_a_whole(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argument = "model.sampling.guidance={text_scale: 2.0, image_scale: 1.25, rescale: 0.5}"
    module, _ = at_the_command(made, tmp_path, monkeypatch, argument)
    assert (module.guidance.text_scale, module.guidance.image_scale, module.guidance.rescale) == (2.0, 1.25, 0.5)


def test_a_key_that_the_run_does_not_have_is_an_error(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known to the configuration of today, not to that of the run."""
    older = tmp_path / "older"
    module_node = of_the_run(made)
    del module_node["sampling"]["guidance"]["rescale"]
    make_run(older, {})
    config = yaml.safe_load((made / "config.yaml").read_text())
    (older / "config.yaml").write_text(yaml.safe_dump({**config, "model": module_node}))
    with pytest.raises(SystemExit, match=r"has no model\.sampling\.guidance\.rescale; its config\.yaml shows"):
        at_the_command(older, tmp_path / "out", monkeypatch, "model.sampling.guidance.rescale=0.5")


def test_a_key_that_nobody_knows_is_answered_with_the_near_one(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"no key model\.sampling\.step; did you mean .*model\.sampling\.steps"):
        at_the_command(made, tmp_path, monkeypatch, "model.sampling.step=4")
    with pytest.raises(SystemExit, match=r"has no model\.sampling\.stepps"):
        at_the_command(made, tmp_path, monkeypatch, "+model.sampling.stepps=4")


def test_replacing_leaves_the_original() -> None:
    node = {"a": {"b": 1, "c": 2}, "d": 3}
    assert replaced(node, ["a", "b"], 5, key="model.a.b") == {"a": {"b": 5, "c": 2}, "d": 3}
    assert node == {"a": {"b": 1, "c": 2}, "d": 3}
    for path in (["a", "x"], ["d", "x"], ["x"]):
        with pytest.raises(ConfigError, match=r"has no model\.here"):
            replaced(node, path, 5, key="model.here")


def test_the_record_of_an_evaluation_has_the_model_that_was_tested(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ready", "prepare"):
        monkeypatch.setattr(evaluate, name, lambda *_, **__: None)
    monkeypatch.setattr(evaluate, "test", lambda *_, **__: {"rows": {"psnr": 1.0}})
    cfg = compose(
        "experiment=pix2pix_video_tiny", f"ckpt='{made}'", f"paths.run='{tmp_path}'", "~compare.before_training"
    )
    evaluate.main(cfg)
    recorded = json.loads((tmp_path / "metrics.json").read_text())["config"]["model"]
    assert recorded == of_the_run(made)
    assert recorded != plain(cfg)["model"]


def test_outside_a_command_nothing_is_replaced() -> None:
    compose(*SMALL[:1], "paths.run=.", "model.sampling.steps=4")
    assert model_overrides() == []
