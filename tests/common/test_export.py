"""The export of any method: found by name, whole or absent, read back, and made once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.card import Card
from common.checkpoint import CheckpointError
from common.config import ConfigError
from common.export import Layout, Request, TrainedRun, choose, export, layouts_of, read_run
from common.made import RECORD
from common.weights.source import Header, Weights
from common.weights.verified import refuse_difference, write_weights
from tests.common.runs import make_run

STATE = {"model.head.weight": torch.randn(3, 4).T, "model.head.bias": torch.tensor([float("nan"), 1.0])}


class Toy:
    """A method with a layout of its own."""

    @staticmethod
    def layouts() -> Mapping[str, Layout]:
        return {"mine": Layout(write=write_mine, card=Card(form="Mine.", usage="Look.", library="toy"))}


def write_mine(run: TrainedRun, folder: Path, request: Request) -> dict[str, Any]:
    (folder / "mine.txt").write_text(f"{sorted(run.state)} {request.base}")
    return {"files": 1}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_run(tmp_path / "outputs" / "toy" / "one", STATE)


def write(checkpoint: Path, target: Path, name: str = "trained", **request: Any) -> dict[str, Any]:
    layout = choose(name, layouts_of(Toy))
    return export(read_run(checkpoint), target, name=name, layout=layout, request=Request(**request))


def test_every_method_has_the_trained_tensors(checkpoint: Path, tmp_path: Path) -> None:
    figures = write(checkpoint, tmp_path / "x")
    assert figures == {"tensors": 2, "bytes": 4 * 14}
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [
        "README.md",
        "config.yaml",
        RECORD,
        "trained.safetensors",
    ]
    again = load_file(tmp_path / "x" / "trained.safetensors")
    assert torch.equal(again["model.head.weight"], STATE["model.head.weight"])
    assert ModelCard.load(tmp_path / "x" / "README.md").data.library_name == "framelab"
    assert set(layouts_of(object)) == {"trained"}


def test_a_method_offers_its_own(checkpoint: Path, tmp_path: Path) -> None:
    assert write(checkpoint, tmp_path / "x", "mine", base="b") == {"files": 1}
    assert (tmp_path / "x" / "mine.txt").read_text() == "['model.head.bias', 'model.head.weight'] b"
    card = ModelCard.load(tmp_path / "x" / "README.md")
    assert card.data.library_name == "toy"
    assert "Mine." in card.text


@pytest.mark.parametrize(("name", "answer"), [("trainde", "did you mean trained?"), ("onnx", "there is mine, trained")])
def test_an_unknown_layout_is_answered_with_the_near_one(name: str, answer: str) -> None:
    with pytest.raises(ConfigError, match=r"export\.layout=") as caught:
        choose(name, layouts_of(Toy))
    assert answer in str(caught.value)


def test_asked_again_it_is_there_and_asked_for_another_it_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    first = write(checkpoint, tmp_path / "x")
    stamp = (tmp_path / "x" / "README.md").stat().st_mtime_ns
    assert write(checkpoint, tmp_path / "x") == first
    assert (tmp_path / "x" / "README.md").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="made from something else"):
        write(checkpoint, tmp_path / "x", "mine")
    with pytest.raises(ValueError, match="made from something else"):
        write(checkpoint, tmp_path / "x", license="mit")


def test_a_checkpoint_without_its_run_is_refused(checkpoint: Path) -> None:
    (checkpoint.parents[1] / "run.json").unlink()
    checkpoint.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match=r"has no run\.json, step_0000007\.json; .*in its run folder"):
        read_run(checkpoint)


def test_a_layout_that_fails_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    def fail(run: TrainedRun, folder: Path, request: Request) -> dict[str, Any]:
        (folder / "half").write_text("")
        raise ValueError("no place for it")

    (tmp_path / "there").mkdir()
    layout = Layout(write=fail, card=Card(form="", usage=""))
    with pytest.raises(ValueError, match="no place for it"):
        export(read_run(checkpoint), tmp_path / "there" / "x", name="f", layout=layout, request=Request())
    assert list((tmp_path / "there").iterdir()) == []


def test_written_shards_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {"a": torch.tensor([float("nan"), 1.0]), "b": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)}
    headers = {name: Header(tuple(value.shape), value.dtype) for name, value in tensors.items()}
    assert write_weights(tmp_path, headers=headers, read=tensors.__getitem__, max_shard_bytes=12) == 20
    assert len(Weights(tmp_path).files) == 2
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == ["a", "b"]
    calls: list[str] = []

    def unsteady(name: str) -> Tensor:
        calls.append(name)
        return tensors[name] + calls.count(name)

    with pytest.raises(OSError, match="a does not read back as it was written"):
        write_weights(tmp_path, headers=headers, read=unsteady, max_shard_bytes=100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.tensor([1.0, 3.0])}, "a does not read back"),
        ({"a": torch.tensor([1.0, 2.0]).double()}, "a does not read back"),
        ({"a": torch.tensor([[1.0, 2.0]])}, "a does not read back"),
        ({"b": torch.zeros(1)}, "holds b, which was not written"),
    ],
)
def test_any_difference_is_an_error(change: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    wanted = {"a": torch.tensor([1.0, 2.0])}
    save_file(wanted | change, tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    with pytest.raises(OSError, match=message):
        refuse_difference(tmp_path, found=found, wanted=wanted, read_back=found.__getitem__, read=wanted.__getitem__)
