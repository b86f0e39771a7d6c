"""How large a checkpoint will be, what is free, and how the lack is told."""

from pathlib import Path

import pytest
import torch
from torch import nn

from common import disk
from common.disk import StreamedCheckpoints, expected_bytes, free_bytes, human, shortage, stored_bytes


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    model(torch.ones(2, 256)).sum().backward()
    optimizer.step()
    return {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "steps": 1}


@pytest.mark.parametrize("layers", [1, 20])
@pytest.mark.parametrize(
    "make",
    [
        lambda values: torch.optim.AdamW(values),
        lambda values: torch.optim.SGD(values, lr=1.0),
        lambda values: torch.optim.SGD(values, lr=1.0, momentum=0.9),
    ],
    ids=["AdamW", "SGD", "SGD with momentum"],
)
def test_the_size_is_that_of_the_file(layers: int, make, tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(layers)))
    optimizer = make(model.parameters())
    before = expected_bytes([optimizer])
    state = trained(model, optimizer)
    StreamedCheckpoints().save_checkpoint(state, tmp_path / "file")
    size = (tmp_path / "file").stat().st_size
    for estimate in (before, stored_bytes(state)):
        assert size <= estimate <= 1.05 * size + disk.REST


def test_a_checkpoint_reads_back_as_it_was(tmp_path: Path) -> None:
    state = {"state_dict": {"a": torch.arange(5.0)}, "step": 3}
    StreamedCheckpoints().save_checkpoint(state, tmp_path / "file")
    again = torch.load(tmp_path / "file", weights_only=True)
    assert again["step"] == 3
    assert torch.equal(again["state_dict"]["a"], state["state_dict"]["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_error_that_is_not_of_the_disk_is_not_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        StreamedCheckpoints().save_checkpoint({"function": lambda: None}, tmp_path / "file")


def test_a_folder_that_is_not_there_yet_is_on_some_disk(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") > 0


def test_the_lack_is_told_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 1024)
    assert shortage("x", 1024, tmp_path) is None
    said = shortage("x", 3 * 2**20, tmp_path)
    assert said is not None
    assert "needs 3.00 MiB (3,145,728 bytes)" in said
    assert "1.00 KiB (1,024 bytes) are free" in said
    assert said.endswith("3.00 MiB (3,144,704 bytes) are missing")


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (1023, "1,023 bytes"), (2**50, "1024.00 TiB")])
def test_numbers_of_bytes_are_readable(size: int, text: str) -> None:
    assert human(size).startswith(text)
