"""Packages: in the range that is asked for, of the version that is tested, and those that only some settings need."""

import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from common.doctor.row import Row, Status
from common.memory.recipe import uses


def package_rows(root: Path, *, extras: Iterable[str]) -> list[Row]:
    """One row for all packages that are as tested, and one for each that is not.

    Args:
        root: the checkout: pyproject.toml names ranges and constraints.txt versions.
        extras: optional groups that the run needs.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (root / "constraints.txt").read_text(encoding="utf-8")
    tested = dict(line.strip().split("==") for line in pins.splitlines() if line.count("==") == 1)
    tested = {name.lower(): pinned for name, pinned in tested.items()}
    wanted = [(Requirement(each), "") for each in project["dependencies"]]
    for extra in extras:
        wanted += [(Requirement(each), extra) for each in project["optional-dependencies"].get(extra, ())]
    wanted = [(each, extra) for each, extra in wanted if each.marker is None or each.marker.evaluate()]
    rows = [_row(each, extra, tested.get(each.name.lower())) for each, extra in wanted]
    odd = [row for row in rows if row.status is not Status.PASS]
    good = Row(Status.PASS, "packages", f"{len(rows) - len(odd)} of {len(rows)} as tested")
    return [good, *odd]


def _row(wanted: Requirement, extra: str, tested: str | None) -> Row:
    command = f"pip install -c constraints.txt -e '.[{extra}]'" if extra else "pip install -c constraints.txt -e ."
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return Row(Status.FAIL, wanted.name, "is not installed", command)
    if not wanted.specifier.contains(found, prereleases=True):
        return Row(Status.FAIL, wanted.name, f"{found} is not {wanted.specifier}", command)
    if tested is not None and found.partition("+")[0] != tested.partition("+")[0]:
        return Row(Status.WARN, wanted.name, f"{found}; {tested} is what is tested", command)
    return Row(Status.PASS, wanted.name, found)


def extras_of(tree: Mapping[str, Any], *, choices: Mapping[str, str]) -> list[str]:
    """Optional groups of packages that a composed configuration needs.

    Args:
        tree: plain containers.
        choices: of each group of configuration files.
    """
    needs = {
        "4bit": any(uses(tree["model"], "quantize")),
        "8bit": any(uses(tree["model"], "eight_bit")),
        "liger": any(uses(tree["model"], "liger")),
        "deepspeed": "zero" in str(tree["trainer"]["strategy"]).lower(),
        "optuna": choices.get("hydra/sweeper") == "optuna",
        "decord": choices.get("video") == "decord",
        "slurm": choices.get("cluster") == "slurm",
        "tensorboard": choices.get("logger") == "tensorboard",
        "wandb": choices.get("logger") == "wandb",
    }
    return [name for name, needed in needs.items() if needed]
