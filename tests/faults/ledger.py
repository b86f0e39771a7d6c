"""What the tests of faults have injected, and what was lost by it: counted, printed, and recorded in RESULTS.md."""

import os
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import torch

from common.checkpoint import committed, load_file, newest_good, read_manifest
from common.loggers import read_metrics
from common.run import git_state
from tests.learning import put_section

ROOT = Path(__file__).resolve().parents[2]
TITLE = "Faults"


class Ledger:
    """Counts of each kind of fault, and results lost."""

    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    def count(self, kind: str, *, lost: bool) -> None:
        """Notes one fault. A result is lost where a committed step is gone or the run ends otherwise than unharmed."""
        self.injected[kind] += 1
        self.lost[kind] += lost

    def lines(self) -> list[str]:
        """The table, one line a kind."""
        rows = [f"| {kind} | {times} | {self.lost[kind]} |" for kind, times in sorted(self.injected.items())]
        return ["| fault | injected | results lost |", "|---|---|---|", *rows]

    def total(self) -> str:
        """One line."""
        return (
            f"{len(self.injected)} kinds of faults, injected {self.injected.total()} times, "
            f"{self.lost.total()} results lost"
        )

    def record(self) -> None:
        """Puts the table into RESULTS.md, if `make faults` asks for it."""
        if not os.environ.get("FRAMELAB_WRITE_FAULTS"):
            return
        revision, _ = git_state(ROOT)
        head = f"{date.today()}, revision {str(revision)[:12]}, CPU, written by `make faults`. {self.total()}."
        put_section(TITLE, "\n".join([head, "", *self.lines()]))


def newest_step(run: Path) -> int:
    """Step of the newest checkpoint that verifies and loads; 0 without one."""
    folder = run / "checkpoints"
    newest = newest_good(folder) if folder.is_dir() else None
    if newest is None:
        return 0
    assert load_file(newest)["global_step"] == read_manifest(newest).step
    return read_manifest(newest).step


def outcome(run: Path) -> dict[str, Any]:
    """What a finished run has: every loss and learning rate, and all that its last checkpoint holds, EMA included."""
    table = read_metrics(run / "metrics.csv")
    content = load_file(committed(run / "checkpoints")[-1])
    measured = {name: each for name, each in table.items() if not name.startswith("train/samples")}
    kept = {name: content[name] for name in ("global_step", "state_dict", "optimizer_states", "lr_schedulers")}
    return {"metrics": measured, **kept, "average": content["callbacks"].get("Ema"), "data": content["StreamData"]}


def equal(ours: Any, reference: Any) -> bool:
    """Bit for bit, however nested."""
    if isinstance(reference, torch.Tensor):
        return torch.equal(ours, reference)
    if isinstance(reference, dict):
        return ours.keys() == reference.keys() and all(equal(ours[key], value) for key, value in reference.items())
    if isinstance(reference, list | tuple):
        return len(ours) == len(reference) and all(map(equal, ours, reference))
    return bool(ours == reference)
