"""Figures of made-up steps, records that can be compared, and devices that are known."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from common.benchmark import timer
from common.benchmark.peaks import peak
from common.benchmark.record import figures, read, refuse_other, slower, table
from common.benchmark.synthetic import Synthetic, tokens_of
from common.benchmark.timer import Step, resident
from common.config import ConfigError


class Text(NamedTuple):
    ids: Tensor
    name: str


class Batch(NamedTuple):
    pixels: Tensor | None
    text: Text


def record(scale: float = 1.0, **what: Any) -> dict[str, Any]:
    steps = [Step(scale * each, 0.1 * scale * each) for each in (1.0, 2.0, 9.0)]
    found = figures(
        steps,
        rows=8,
        tokens=10.0,
        operations=10**12,
        devices=2,
        peak=4e12,
        peak_bytes=110,
        estimated_bytes=100.0,
    )
    return {"what": {"experiment": "e", "micro": 2, **what}, "figures": found}


def test_figures_are_of_the_median_step() -> None:
    found = record()["figures"]
    assert found["step_seconds"] == 2.0
    assert found["samples_per_second"] == 4.0
    assert found["tokens_per_second"] == 40.0
    assert found["tflop_per_second_device"] == 2.0
    assert found["peak_share"] == 0.5
    assert found["waiting_share"] == pytest.approx(0.1)


def test_two_revisions_beside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(record()))
    before, now = read(path), record(1.5)
    assert table(now, before)[1] == ("seconds a step, median", "3", "2", "1.500")
    assert len(table(now, None)[0]) == 2
    assert slower(now, before, by=0.6) is None
    assert "1.500 times" in str(slower(now, before, by=0.4))
    refuse_other(before, now["what"])


def test_records_of_other_runs_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="micro was 2, is 4"):
        refuse_other(record(), record(micro=4)["what"])
    with pytest.raises(ConfigError, match="no such file"):
        read(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ConfigError, match="is not what a benchmark wrote"):
        read(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("NVIDIA GeForce RTX 4090", "bf16-mixed", 165.2e12),
        ("NVIDIA A100-SXM4-80GB", "bf16-mixed", 312e12),
        ("NVIDIA A100-SXM4-80GB", "32-true", 19.5e12),
        ("NVIDIA H100 PCIe", "bf16-true", 756e12),
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", 989e12),
        ("NVIDIA H200", "bf16-mixed", 989e12),
        ("cpu", "32-true", None),
    ],
)
def test_peaks(device: str, precision: str, expected: float | None) -> None:
    assert peak(device, precision) == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_the_batch_comes_through_the_loader_as_it_is(workers: int) -> None:
    batch = Batch(None, Text(torch.arange(6).reshape(2, 3), "x"))
    data = Synthetic(batch, count=2, global_batch=4, micro_batch=2, num_workers=workers, pin_memory=False)
    found = list(data.train_dataloader())
    assert len(found) == 2
    assert all(isinstance(each, Batch) and torch.equal(each.text.ids, batch.text.ids) for each in found)
    assert found[0].text.ids.data_ptr() != batch.text.ids.data_ptr()
    assert tokens_of(batch) == 6
    assert tokens_of(("no", "text")) is None


def test_a_system_that_does_not_tell_of_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path / "status"
    status.write_text("Name: python\nVmRSS:\t 12 kB\n")
    monkeypatch.setattr(timer, "STATUS", status)
    assert resident("VmRSS") == 12 * 1024
    assert resident("VmHWM") is None
    status.unlink()
    assert resident("VmRSS") is None
