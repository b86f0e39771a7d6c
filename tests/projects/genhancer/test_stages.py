"""The second stage finds the first, or says what there is instead."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from common.checkpoint import CheckpointError, Manifest, checksum, commit
from projects.genhancer.stages import find_stage1, load_stage1

TOWER = "some tower"


def write_run(run: Path, *steps: int, tower: str = TOWER, **state: torch.Tensor) -> Path:
    """A run with checkpoints at these steps."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "direction").write_text("min\n")
    for step in steps:
        own = state or {"weight": torch.full((1, 2), step)}
        tensors = {f"reconstructor.{name}": value for name, value in own.items()}
        final = folder / f"step_{step:07d}.ckpt"
        temporary = final.with_name(f".{final.name}.part")
        torch.save({"state_dict": tensors, "genhancer": {"tower": tower}}, temporary)
        size, crc32 = temporary.stat().st_size, checksum(temporary)
        manifest = Manifest(step=step, samples=1, size=size, crc32=crc32, objective="val/loss", score=abs(step - 40.0))
        commit(temporary, final, manifest)
    return run


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reconstructor = nn.Linear(2, 1, bias=False)
        self.tower = nn.Linear(2, 1)


def test_the_step_that_is_meant(tmp_path: Path) -> None:
    run = write_run(tmp_path / "first", 313, 626)
    assert find_stage1(str(run), "last").stem == "step_0000626"
    assert find_stage1(str(run), "best").stem == "step_0000313"
    assert find_stage1(str(run), 313).stem == "step_0000313"


def test_of_a_folder_of_runs_the_newest(tmp_path: Path) -> None:
    old, new = write_run(tmp_path / "runs" / "z", 10), write_run(tmp_path / "runs" / "a", 20)
    os.utime(old / "checkpoints" / "last", ns=(0, 0))
    assert find_stage1(str(tmp_path / "runs"), "last").parents[1] == new


def test_another_step_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    run = write_run(tmp_path / "first", 313, 626)
    with pytest.raises(CheckpointError, match=r"load_step=300: .* no checkpoint of that step; .*load_step=313, 626"):
        find_stage1(str(run), 300)


def test_a_missing_run_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"stage1=.*/none is not there; nor is there any other run"):
        find_stage1(str(tmp_path / "none"), "last")
    write_run(tmp_path / "video" / "first", 313)
    with pytest.raises(CheckpointError, match=r"stage1=.*/none is not there; there is .*video/first\. Train"):
        find_stage1(str(tmp_path / "none"), "last")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no run with a checkpoint; there is .*video/first"):
        find_stage1(str(tmp_path / "empty"), 313)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "first", 313, 626)
    with open(run / "checkpoints" / "step_0000626.ckpt", "r+b") as file:
        file.seek(200)
        file.write(b"x" * 8)
    with pytest.raises(CheckpointError, match="damaged"):
        find_stage1(str(run), 626)
    assert find_stage1(str(run), "last").stem == "step_0000313"  # as everywhere: the newest that is whole


def test_the_denoiser_is_loaded_and_nothing_else(tmp_path: Path) -> None:
    module = Small()
    before = module.tower.weight.detach().clone()
    load_stage1(module, find_stage1(str(write_run(tmp_path / "first", 7)), 7), tower=TOWER)
    assert module.reconstructor.weight.tolist() == [[7.0, 7.0]]
    assert torch.equal(module.tower.weight, before)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.ones(1, 2), "bias": torch.ones(1)}, r"not trained here: \['reconstructor.bias'\]"),
        ({"bias": torch.ones(1)}, r"missing: \['reconstructor.weight'\]"),
        ({"weight": torch.ones(1, 3)}, r"\(1, 3\) in the file, \(1, 2\) in the model"),
    ],
)
def test_another_denoiser_is_refused(state: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_stage1(Small(), find_stage1(str(write_run(tmp_path / "first", 7, **state)), 7), tower=TOWER)


def test_another_tower_is_refused(tmp_path: Path) -> None:
    checkpoint = find_stage1(str(write_run(tmp_path / "first", 7, tower="other")), 7)
    with pytest.raises(CheckpointError, match=r"another vision tower \(other, here some tower\)"):
        load_stage1(Small(), checkpoint, tower=TOWER)


def test_a_second_stage_is_no_first_stage(tmp_path: Path) -> None:
    run = tmp_path / "second"
    write_run(run, 7)
    path = run / "checkpoints" / "step_0000007.ckpt"
    content = torch.load(path)
    content["state_dict"]["tower.weight"] = torch.ones(1, 2)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="is of a second stage"):
        load_stage1(Small(), path, tower=TOWER)
