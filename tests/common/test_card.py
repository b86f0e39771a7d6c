"""The model card: valid front matter, and nothing in it that the record of the run does not say."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from common.card import Card, hub_ids, model_card, portable
from common.checkpoint import Manifest
from common.config import ROOT
from common.run import Start

MANIFEST = Manifest(
    step=1200, samples=76800, size=1, crc32=1, objective="val/loss", score=0.5, metrics={"val/loss": 0.51234}
)
START = Start(
    generation=2,
    command=[f"{ROOT}/launchers/train.py", "experiment=toy", f"paths.data={Path.home()}/data"],
    time="2026-01-02T03:04:05+00:00",
    revision="f" * 40,
    dirty=True,
    resumed_from=None,
    host="the-name-of-this-machine",
    python="3.11",
    packages={"torch": "2.13"},
)
CONFIG: dict[str, Any] = {
    "name": "toy",
    "seed": 3,
    "init": None,
    "paths": {"data": "data", "outputs": "outputs"},
    "batch": {"global": 64, "micro": 8},
    "trainer": {"precision": "bf16-mixed", "devices": 8},
    "model": {
        "lr": 2e-5,
        "language_model_lr": None,
        "language_model": {"weights": "data/base"},
        "encoder": {"weights": "openai/clip-vit-large-patch14"},
        "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "betas": [0.9, 0.999]},
    },
    "data": {"train": {"_target_": "x", "annotations": f"{ROOT}/data/train.json", "template": {"a": 1}}},
}
SHAPES = {"model.projector.weight": (4, 3), "model.projector.bias": (4,), "model.boundary": (2, 4)}


def card(config: dict[str, Any] = CONFIG, manifest: Manifest = MANIFEST, license_name: str | None = None) -> str:
    layout = Card(form="What it is.", usage="How to use it.", task="video-text-to-text", tags=("x",))
    return model_card(
        layout, config=config, manifest=manifest, start=START, shapes=SHAPES, license_name=license_name, rows=4000
    )


def test_the_front_matter_is_what_the_hub_reads() -> None:
    data = ModelCard(card(license_name="apache-2.0")).data.to_dict()
    assert data == {
        "library_name": "framelab",
        "pipeline_tag": "video-text-to-text",
        "license": "apache-2.0",
        "base_model": ["openai/clip-vit-large-patch14"],
        "tags": ["framelab", "toy", "x"],
    }
    assert "license" not in ModelCard(card()).data.to_dict()


@pytest.mark.parametrize(
    "line",
    [
        "| optimizer steps | 1,200 |",
        "| samples | 76,800 |",
        "| training rows | 4,000 |",
        "| global batch | 64 |",
        "| devices | 8 |",
        "| precision | bf16-mixed |",
        "| seed | 3 |",
        "| `model.lr` | 2e-05 |",
        "| `model.optimizer` | torch.optim.AdamW |",
        "| `model.projector` | 2 | 16 |",
        "| all | 3 | 24 |",
        "annotations: data/train.json",
        "| `val/loss` | 0.5123 |",
        f"| revision | `{'f' * 40}`, with uncommitted changes |",
        "| command | `python -m launchers.train experiment=toy paths.data=~/data` |",
        "| packages | torch 2.13 |",
        "How to use it.",
    ],
)
def test_the_record_is_told(line: str) -> None:
    assert line in card().splitlines()


def test_nothing_of_this_machine_is_told() -> None:
    text = card()
    assert START.host not in text
    assert str(ROOT) not in text
    assert str(Path.home()) not in text
    assert portable(f"{ROOT}/a {Path.home()}/b") == "a ~/b"


def test_what_the_record_lacks_is_left_out() -> None:
    text = card(config={"name": "imported", "model": {}}, manifest=Manifest(0, 0, 1, 1, "val/loss"))
    assert "This checkpoint was not validated." in text
    assert "## Data" not in text
    assert "None" not in text
    assert "base_model" not in text


def test_only_hub_ids_are_base_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    values = ["a/b", "folder/base", "/c/d", "data/e", "random", "a/b/c", "./f", "../g"]
    model = {str(number): {"weights": value} for number, value in enumerate(values)}
    assert hub_ids({"model": model, "paths": {"data": "data", "outputs": "outputs"}}) == ["a/b"]
