"""What the tests of faults have injected, and what was lost by it: counted, printed, and recorded.

`make faults` keeps the counts in fault_counts.json, where those of the newest session that put a fault into an
experiment stand, and writes the table in RESULTS.md from that file. So a session of some faults, or of one method
(FRAMELAB_WRITE_FAULTS=1 with pytest's own choice of tests), changes its own counts alone, and the table says what was
run and what was not. A test that fails before it has counted leaves no count.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from common.checkpoint import committed, load_file, newest_good, read_manifest
from common.files import atomic_write_text
from common.loggers import read_metrics
from common.run import git_state
from tests.learning import put_section

ROOT = Path(__file__).resolve().parents[2]
COUNTS = ROOT / "fault_counts.json"
TITLE = "Faults"


@dataclass(frozen=True)
class Count:
    """How often a kind of fault was put into runs of an experiment, and how many results were lost by it."""

    experiment: str
    fault: str
    injected: int
    lost: int
    date: str
    revision: str  # of the code that ran
    changed: bool  # tracked files differed from it


class Ledger:
    """Counts of one session of tests.

    Args:
        place: the file that keeps the counts of all sessions; None keeps none.
    """

    def __init__(self, place: Path | None) -> None:
        self.place = place
        revision, changed = git_state(ROOT)
        self._code = (str(revision)[:12], bool(changed))
        self._counts: dict[tuple[str, str], Count] = {}

    def count(self, fault: str, *, experiment: str, lost: bool, injected: int = 1) -> None:
        """Notes a fault, at once also in the file. A result is lost where a committed step is gone or the run ends
        otherwise than unharmed; with `injected=0` an end is noted that several faults have led to."""
        key = (experiment, fault)
        before = self._counts.get(key) or Count(experiment, fault, 0, 0, str(date.today()), *self._code)
        self._counts[key] = replace(before, injected=before.injected + injected, lost=before.lost + lost)
        if self.place is not None:
            save(self.place, [self._counts[key]])

    def lost(self, fault: str) -> int:
        """Results lost by a kind of fault, in all experiments."""
        return sum(each.lost for each in self._counts.values() if each.fault == fault)

    def lines(self) -> list[str]:
        """What this session did: a line in all, then the table."""
        found = list(self._counts.values())
        return [total(found), "", *table(found)]


def asked() -> Path | None:
    """The file of counts, if `make faults` asks for it."""
    return COUNTS if os.environ.get("FRAMELAB_WRITE_FAULTS") else None


def save(place: Path, counts: Iterable[Count]) -> None:
    """Puts counts into a file in place of those of the same experiments and faults; others stay."""
    merged = {(each.experiment, each.fault): each for each in [*kept(place), *counts]}
    rows = [json.dumps(asdict(merged[key])) for key in sorted(merged)]
    atomic_write_text(place, "[\n" + ",\n".join(rows) + "\n]\n")


def kept(place: Path) -> list[Count]:
    """The counts of a file; none where there is no file."""
    return [Count(**row) for row in json.loads(place.read_text())] if place.is_file() else []


def total(counts: Iterable[Count]) -> str:
    """One line."""
    found = list(counts)
    kinds, times = len({each.fault for each in found}), sum(each.injected for each in found)
    return f"{kinds} kinds of faults, injected {times} times, {sum(each.lost for each in found)} results lost"


def table(counts: Iterable[Count]) -> list[str]:
    """A row for each kind of fault, a column for each experiment: times injected, empty where it was not put in."""
    found = {(each.experiment, each.fault): each for each in counts}
    experiments = sorted({experiment for experiment, _ in found})
    rows = []
    for fault in sorted({fault for _, fault in found}):
        here = [found.get((experiment, fault)) for experiment in experiments]
        cells = [str(each.injected) if each else "" for each in here]
        rows.append([fault, *cells, str(sum(each.lost for each in here if each))])
    head = ["fault", *experiments, "results lost"]
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]


def sessions(counts: Iterable[Count]) -> list[str]:
    """A row for each experiment: what was put into it in all, when, and at which revisions."""
    found = list(counts)
    rows = []
    for experiment in sorted({each.experiment for each in found}):
        here = [each for each in found if each.experiment == experiment]
        code = {f"{each.revision}{' with changes' if each.changed else ''}" for each in here}
        days = {each.date for each in here}
        sums = (len(here), sum(each.injected for each in here), sum(each.lost for each in here))
        rows.append([experiment, *map(str, sums), ", ".join(sorted(days)), ", ".join(sorted(code))])
    head = ["experiment", "kinds", "injected", "results lost", "run on", "revision"]
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]


def write_section(place: Path = COUNTS) -> None:
    """Puts the tables into RESULTS.md."""
    counts = kept(place)
    told = (
        f"Put into real training runs on CPU by `make faults`, or by some of its tests; `{place.name}` keeps the "
        f"newest count of each fault in each experiment. {total(counts)}. An empty cell was not run."
    )
    put_section(TITLE, "\n".join([told, "", *sessions(counts), "", *table(counts)]))


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
