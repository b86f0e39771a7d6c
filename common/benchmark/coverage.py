"""Which method was run where: a file of runs, and the table that it and the configurations make."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.files import atomic_write_text

BEGIN, END = "<!-- hardware:begin -->", "<!-- hardware:end -->"
KEPT = ("experiment", "hardware", "device", "devices", "nodes", "precision", "strategy")
LEGEND = """*composes*: the configuration composes and every argument of it binds; it has not been run. *CPU*: some
training steps of a tiny experiment were run with the strategy of this file, by at most so many processes on a CPU in
place of GPUs, with these differences: float32 with FSDP, and for genhancer with DeepSpeed, since autocast on a CPU does
not lift a normalization with bfloat16 weights to float32, as it does on a GPU; DeepSpeed without an average of the
weights, which it refuses; genhancer on 24 GB cards without its 8-bit optimizer. Nodes are those of a SLURM on one
machine. A device by name: training steps were run on it. Empty: no experiment of the method is claimed to run there."""


class Claim(NamedTuple):
    """One experiment: the project that it is of, and the classes of machines that it has a micro-batch for."""

    method: str
    classes: Sequence[str]


def add(path: Path, record: Mapping[str, Any]) -> None:
    """Adds what a benchmark ran to a file of runs; the newest of a kind stays.

    Args:
        path: the file, made where it is not there.
        record: as `launchers.benchmark` writes it.
    """
    run = {key: record["what"][key] for key in KEPT} | {key: record[key] for key in ("revision", "dirty", "time")}
    others = [each for each in runs(path) if _kind(each) != _kind(run)]
    ordered = sorted([*others, run], key=lambda each: [str(part) for part in _kind(each)])
    atomic_write_text(path, json.dumps(ordered, indent=1) + "\n")


def runs(path: Path) -> list[dict[str, Any]]:
    """What a file of runs holds; nothing where there is none."""
    if not path.is_file():
        return []
    content: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _kind(run: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(run[key] for key in ("experiment", "hardware", "device", "devices", "nodes"))


def rows(
    claims: Mapping[str, Claim], hardware: Mapping[str, str], found: Iterable[Mapping[str, Any]]
) -> list[Sequence[str]]:
    """A row for each method, a column for each hardware file; the first row is the head.

    Args:
        claims: of each experiment.
        hardware: class of each hardware file.
        found: runs.
    """
    done = list(found)
    table: list[Sequence[str]] = [("", *hardware)]
    for method in sorted({claim.method for claim in claims.values()}):
        mine = {name: claim for name, claim in claims.items() if claim.method == method}
        claimed = {each for claim in mine.values() for each in claim.classes}
        here = [run for run in done if run["experiment"] in mine]
        cells = [
            cell([run for run in here if run["hardware"] == name]) or ("composes" if hardware[name] in claimed else "")
            for name in hardware
        ]
        table.append((method, *cells))
    return table


def cell(found: Sequence[Mapping[str, Any]]) -> str:
    """What was run of one method with one hardware file: on GPUs if it was, or else by processes on a CPU."""
    real = [run for run in found if run["device"] != "cpu"]
    if real:
        names = sorted({f"{run['devices'] * run['nodes']} x {run['device']}" for run in real})
        return f"{', '.join(names)} ({max(run['time'] for run in real)[:10]})"
    if not found:
        return ""
    count, nodes = (max(values) for values in zip(*((_processes(run), run["nodes"]) for run in found), strict=True))
    return f"CPU, {count} {'process' if count == 1 else 'processes'}{f', {nodes} nodes' if nodes > 1 else ''}"


def _processes(run: Mapping[str, Any]) -> int:
    return int(run["devices"] * run["nodes"])
