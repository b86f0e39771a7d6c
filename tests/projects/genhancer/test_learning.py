"""The learning rung of GenHancer: both tiny modes, both stages, the control and the guard, in one table a mode.

`make genhancer-tiny` runs it and writes the tables. What is asked here is what was obtained, see the project's README:
in both modes more pairs of pictures are told apart, and from conditions of other pictures nothing is learned.
"""

import csv
import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from common.loggers import read_metrics
from tests.learning import ROOT, call, put_section

pytestmark = [pytest.mark.learning, pytest.mark.nightly]

BASE = ROOT / "common" / "tiny" / "weights" / "clip_coarse"
TOLD = (
    "The tiny CLIP before the second stage, after it, and after a second stage whose conditions are those of other "
    "pictures (shuffled): shares of {pairs} test pairs (a caption chooses between two pictures, chance 0.25), and of "
    "{guard} test pictures whose colour, shape or place a caption tells; 95 % intervals. `best` is the checkpoint with "
    "the most of 500 validation pairs, `last` that of the last step. A change is paired (Newcombe), with cases gained "
    "and lost and McNemar's p."
)


@pytest.mark.parametrize("mode", ["image", "video"])
def test_what_the_second_stage_gives(mode: str, tmp_path: Path) -> None:
    second, control = f"genhancer_{mode}_stage2_tiny", f"genhancer_{mode}_shuffled_tiny"
    shuffled = f"name={control} model.shuffle=true"
    call(f"launchers.train experiment=genhancer_{mode}_stage1_tiny", tmp_path)
    call(f"launchers.train experiment={second}", tmp_path)
    call(f"launchers.train experiment={second} {shuffled}", tmp_path)
    models = [f"task.models.before={BASE}", "~task.models.after", "task.only=[pairs,zero_shot]"]
    for run, changes in (("after", ""), ("shuffled", f" {shuffled}")):
        for ckpt in ("best", "last"):
            name = f"{run}_{ckpt}"
            call(
                f"launchers.export experiment={second}{changes} ckpt={ckpt} export.layout=clip "
                f"export.target={tmp_path / name} paths.run={tmp_path / 'exports' / name}",
                tmp_path,
            )
            models.append(f"+task.models.{name}={tmp_path / name}")
    call(f"launchers.prepare task=tower_benchmarks_tiny {' '.join(models)}", tmp_path)
    table = read_table(tmp_path / "tower_benchmarks_tiny" / "table.csv")
    (run_folder,) = (tmp_path / second).glob("*")
    curve = curve_of(run_folder)
    if os.environ.get("FRAMELAB_WRITE_RESULTS"):
        write(mode, table, curve, run=run_folder)
    pairs, place, shape = (table[f"{row}/all"] for row in ("pairs/pairs", "zero_shot/place", "zero_shot/shape"))
    assert pairs["before"]["cases"] >= 1000
    assert place["before"]["cases"] >= 2500
    assert len(curve["pairs"]) >= 8
    assert abs(shape["after_best"]["change"]) < 0.02  # what it costs
    for measure in (pairs, place):
        assert measure["after_best"]["change_low"] > 0
        assert measure["after_best"]["p"] < 0.001
        for ckpt in ("best", "last"):
            assert measure[f"shuffled_{ckpt}"]["change_low"] < 0
    assert place["shuffled_best"]["change_high"] < 0


def read_table(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Numbers by row, model and column."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            row, model = line.pop("row"), line.pop("model")
            table.setdefault(row, {})[model] = {name: float(value) for name, value in line.items()}
    return table


def curve_of(run: Path) -> dict[str, dict[int, float]]:
    """What each validation of the second stage found, by step."""
    metrics = read_metrics(run / "metrics.csv")
    measures = ("pairs", "zero_shot/place", "zero_shot/shape", "zero_shot/colour", "loss")
    return {name: metrics[f"val/{name}"] for name in measures}


def write(mode: str, table: dict[str, Any], curve: dict[str, dict[int, float]], *, run: Path) -> None:
    """The section of a mode in RESULTS.md."""
    revision = json.loads((run / "run.json").read_text())[-1]["revision"]
    cases = {"pairs": "pairs/pairs/all", "guard": "zero_shot/place/all"}
    told = TOLD.format(**{name: int(table[row]["before"]["cases"]) for name, row in cases.items()})
    models = [name for name in table["pairs/pairs/all"] if name != "before"]
    lines = [f"{date.today()}, revision {revision[:12]}, two CPU cores. {told}", ""]
    lines += ["| | before | " + " | ".join(model.replace("_", ", ") for model in models) + " |"]
    lines += ["|---" * (2 + len(models)) + "|"]
    for name, row in table.items():
        lines += [
            f"| {name.removesuffix('/all')} | {whole(row['before'])} | {' | '.join(changed(row[m]) for m in models)} |"
        ]
    steps = list(curve["pairs"])
    lines += ["", "Validation during the second stage:", "", "| step | " + " | ".join(map(str, steps)) + " |"]
    lines += ["|---" * (1 + len(steps)) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{each[step]:.3f}" for step in steps) + " |" for name, each in curve.items()]
    put_section(f"GenHancer, tiny, {mode} mode, on the built-in world", "\n".join(lines))


def whole(cell: dict[str, float]) -> str:
    """A share with its interval."""
    return f"{cell['share']:.3f} ({cell['low']:.2f}-{cell['high']:.2f})"


def changed(cell: dict[str, float]) -> str:
    """A share, its change with the interval, and where it comes from."""
    change = f"{cell['change']:+.3f} ({cell['change_low']:+.3f} to {cell['change_high']:+.3f})"
    return f"{cell['share']:.3f}, {change}, +{cell['gained']:.0f} -{cell['lost']:.0f}, p {cell['p']:.2g}"
