"""The table of methods and hardware: what was run wins over what only composes, and a file of runs keeps the newest."""

from pathlib import Path
from typing import Any

from common.benchmark.coverage import Claim, add, cell, rows, runs

CLAIMS = {"a_tiny": Claim("a", ["cpu", "gpu24"]), "a_large": Claim("a", ["gpu80"]), "b_tiny": Claim("b", ["cpu"])}
HARDWARE = {"cpu": "cpu", "gpu": "gpu24", "a100x8": "gpu80"}


def run(
    experiment: str, hardware: str, device: str, devices: int, time: str = "2026-01-01T00:00:00", nodes: int = 1
) -> dict[str, Any]:
    kinds = {"experiment": experiment, "hardware": hardware, "device": device, "devices": devices, "nodes": nodes}
    return {
        "what": {**kinds, "precision": "p", "strategy": "s"},
        "revision": "r",
        "dirty": False,
        "time": time,
    }


def test_a_file_of_runs_keeps_the_newest_of_a_kind(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    assert runs(path) == []
    for each in (
        run("b_tiny", "cpu", "cpu", 1),
        run("a_tiny", "cpu", "cpu", 1),
        run("a_tiny", "cpu", "cpu", 1, "2027"),
    ):
        add(path, each)
    assert [(each["experiment"], each["time"][:4]) for each in runs(path)] == [("a_tiny", "2027"), ("b_tiny", "2026")]


def test_what_was_run_wins_over_what_composes(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    for each in (
        run("a_tiny", "cpu", "cpu", 1),
        run("a_tiny", "a100x8", "cpu", 2),
        run("a_large", "a100x8", "NVIDIA A100", 8, "2026-05-06T01:02:03"),
    ):
        add(path, each)
    assert rows(CLAIMS, HARDWARE, runs(path)) == [
        ("", "cpu", "gpu", "a100x8"),
        ("a", "CPU, 1 process", "composes", "8 x NVIDIA A100 (2026-05-06)"),
        ("b", "composes", "", ""),
    ]
    assert cell([]) == ""
    assert cell([each for each in runs(path) if each["hardware"] == "a100x8"][1:]) == "CPU, 2 processes"


def test_runs_of_one_node_and_of_several_stand_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    for nodes in (1, 2):
        add(path, run("a_tiny", "a100x8", "cpu", 1, nodes=nodes))
    assert len(runs(path)) == 2
    assert cell(runs(path)) == "CPU, 2 processes, 2 nodes"
