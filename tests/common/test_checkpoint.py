"""Checkpoint files: committed or absent, verified, retained and found."""

import json
from pathlib import Path

import pytest
import torch

from common import checkpoint as ck


def put(folder: Path, step: int, score: float | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "direction").write_text("max\n")
    temporary = folder / f".step_{step:07d}.ckpt.part"
    torch.save({"step": step, "state_dict": {"w": torch.arange(step)}}, temporary)
    manifest = ck.Manifest(
        step=step,
        samples=step * 4,
        size=temporary.stat().st_size,
        crc32=ck.checksum(temporary),
        objective="val/a",
        score=score,
    )
    final = folder / f"step_{step:07d}.ckpt"
    ck.commit(temporary, final, manifest)
    return final


def test_a_damaged_newest_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    older, newest = put(tmp_path, 1), put(tmp_path, 2)
    assert ck.newest_good(tmp_path) == newest
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert ck.newest_good(tmp_path) == older
    assert "step_0000002" in caplog.text
    newest.write_bytes(content[:-10])
    assert ck.newest_good(tmp_path) == older


def test_a_file_without_manifest_is_not_a_checkpoint(tmp_path: Path) -> None:
    put(tmp_path, 1)
    put(tmp_path, 2).with_suffix(".json").unlink()
    assert [path.name for path in ck.committed(tmp_path)] == ["step_0000001.ckpt"]


def test_retention_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step, score in enumerate([0.1, 0.9, 0.3, 0.2, None], start=1):
        put(tmp_path, step, score)
    ck.retain(tmp_path, keep_last=2, keep_best=1, direction="max")
    assert [path.name for path in ck.committed(tmp_path)] == [f"step_{step:07d}.ckpt" for step in (2, 4, 5)]


def test_locating(tmp_path: Path) -> None:
    first = put(tmp_path / "runs" / "2026-01-01" / "checkpoints", 3, 0.9)
    second = put(tmp_path / "runs" / "2026-01-02" / "checkpoints", 1, 0.5)
    third = put(tmp_path / "runs" / "2026-01-02" / "checkpoints", 2, 0.4)
    runs = tmp_path / "runs"
    assert ck.locate("last", runs) == third
    assert ck.locate("best", runs) == second
    assert ck.locate(str(runs / "2026-01-01"), runs) == first
    assert ck.locate(str(runs / "2026-01-02" / "best"), runs) == second
    assert ck.locate(f"{runs}/last", tmp_path / "elsewhere") == third
    assert ck.locate(str(first), runs) == first
    with pytest.raises(ck.CheckpointError, match="no run with a checkpoint"):
        ck.locate("last", tmp_path / "nothing")
    (third.parent / "last").unlink()  # a first save that was cut off before the pointer
    assert ck.locate("last", runs) == third
    third.write_bytes(b"x")
    with pytest.raises(ck.CheckpointError, match="damaged"):
        ck.locate(str(third), runs)


def test_loading_refuses_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"call": json.loads}, path)
    with pytest.raises(ck.CheckpointError, match=r"evil\.ckpt.*something else than tensors"):
        ck.load_file(path)


@pytest.mark.parametrize("content", [b"# A page\n", b"", b"PK\x03\x04 cut off"])
def test_a_file_of_another_kind_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ck.CheckpointError, match="other is no checkpoint of this project"):
        ck.load_file(tmp_path / "other")


def test_weights_alone_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(ck.CheckpointError, match=r"weights\.pt is no checkpoint of this project: it has no state_dict"):
        ck.load_file(tmp_path / "weights.pt")


def test_the_best_is_not_guessed(tmp_path: Path) -> None:
    put(tmp_path / "runs" / "2026-01-01" / "checkpoints", 1, 0.5)
    (tmp_path / "runs" / "2026-01-01" / "checkpoints" / "direction").unlink()
    with pytest.raises(ck.CheckpointError, match=r"direction is missing.*name a checkpoint file"):
        ck.locate("best", tmp_path / "runs")


def test_trained_tensors_of_another_model_are_refused() -> None:
    module = torch.nn.Linear(3, 2)
    with pytest.raises(ck.CheckpointError, match="unknown: \\['other'\\]"):
        ck.load_trained(module, {"other": torch.zeros(1)}, source="file")
    with pytest.raises(ck.CheckpointError, match=r"weight: \(5, 5\)"):
        ck.load_trained(module, {"weight": torch.zeros(5, 5)}, source="file")
    ck.load_trained(module, {"bias": torch.ones(2)}, source="file")
    assert module.bias.tolist() == [1, 1]


def test_names_must_be_exactly_what_trains() -> None:
    ck.check_names(["a", "b"], ["b", "a"], source="file")
    with pytest.raises(ck.CheckpointError, match=r"missing: \['a'\]; not trained here: \['c'\]"):
        ck.check_names(["a", "b"], ["b", "c"], source="file")


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null"], ids=["empty", "torn", "no keys", "a list", "null"])
def test_a_damaged_manifest_gives_way_to_the_checkpoint_before(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = put(tmp_path, 1, 0.5), put(tmp_path, 2, 0.9)
    newest.with_suffix(".json").write_text(content)
    assert ck.newest_good(tmp_path) == older
    assert "step_0000002" in caplog.text
    assert ck.best(tmp_path, "max") == older
    put(tmp_path, 3, 0.7)
    ck.retain(tmp_path, keep_last=1, keep_best=1, direction="max")
    assert [path.stem for path in ck.committed(tmp_path)] == ["step_0000003"]
    with pytest.raises(ck.CheckpointError, match="not the manifest"):
        ck.read_manifest(newest)
