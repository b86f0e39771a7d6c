"""The first stage in the second: which checkpoint of which run, and that it belongs to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from common.checkpoint import (
    FOLDER,
    CheckpointError,
    check_names,
    committed,
    is_good,
    load_file,
    load_trained,
    locate,
    read_manifest,
)

RECORD = "genhancer"  # key in a checkpoint: what the denoiser was trained beside
ALL, ONLY = "all", "only"
PREFIX = "reconstructor."  # of the denoiser and the projectors, in the names of a module


def check_keys(
    *,
    learns_tower: bool,
    both: bool,
    whole: bool,
    train: str,
    tower_lr: float | None,
    stage1: str | None,
    distillation: bool,
) -> None:
    """Raises ValueError where keys of the model contradict each other.

    Args:
        learns_tower: whether this is the second stage.
        both: whether the tower would learn whole and by adapters.
        whole: whether it learns whole.
        train: "all" or "only".
        tower_lr: rate of the tower.
        stage1: run of the first stage.
        distillation: whether the tower is held near what it was.
    """
    if both:
        raise ValueError("model.whole=true trains all of the vision tower; set model.adapters=null")
    if train not in (ALL, ONLY):
        raise ValueError(f'model.train={train}: "{ALL}" or "{ONLY}"')
    if (tower_lr is not None) != learns_tower:
        raise ValueError("model.tower_lr belongs to a tower that learns (model.adapters, model.whole), and to it alone")
    if not learns_tower and (train == ONLY or distillation or stage1 is not None):
        raise ValueError(
            "model.train=only, model.distillation and model.stage1 belong to the second stage, and in this one the "
            "tower is frozen: give model.adapters and model.tower_lr"
        )
    if train == ONLY and stage1 is None:
        raise ValueError("model.train=only leaves the denoiser as it is, so it must come from model.stage1")
    if distillation and whole:
        raise ValueError("model.distillation compares with the tower without its adapters; model.whole=true has none")


def find_stage1(stage1: str, load_step: str | int) -> Path:
    """The checkpoint of the first stage.

    Args:
        stage1: a run folder, or a folder of runs (its newest).
        load_step: "last", "best", or the number of optimizer steps.

    Raises:
        CheckpointError: there is no such run or no such step; says which there are.
    """
    folder = Path(stage1)
    runs = _runs(folder)
    if not runs:
        raise CheckpointError(_no_run(folder))
    if load_step in ("last", "best"):
        return locate(f"{runs[-1]}/{load_step}", folder)
    wanted = {path for path in committed(runs[-1] / FOLDER) if read_manifest(path).step == load_step}
    if not wanted:
        raise CheckpointError(
            f"model.load_step={load_step}: {runs[-1]} has no checkpoint of that step; {_steps(runs[-1])}"
        )
    path = wanted.pop()
    if not is_good(path):
        raise CheckpointError(f"{path} does not match its manifest; it is damaged, {_steps(runs[-1])}")
    return path


def load_stage1(module: nn.Module, checkpoint: Path, *, tower: str) -> Mapping[str, Any]:
    """Copies the denoiser and the projectors of a first stage into a module.

    Args:
        module: with the parameters `reconstructor.*`.
        checkpoint: of the first stage, made on any number of devices.
        tower: identity of the vision tower as it is before the second stage.

    Returns:
        What the checkpoint says of the run.

    Raises:
        CheckpointError: it is of another model, of another tower, or of a second stage.
    """
    content = load_file(checkpoint)
    state = content["state_dict"]
    own = [name for name, _ in module.named_parameters() if name.startswith(PREFIX)]
    if any(not name.startswith(PREFIX) for name in state):
        raise CheckpointError(
            f"{checkpoint} is of a second stage (it trained the tower too); give the run folder of a first stage by "
            "model.stage1"
        )
    check_names(own, state, source=str(checkpoint))
    refuse_other_tower(content, tower=tower, source=str(checkpoint))
    load_trained(module, state, source=str(checkpoint))
    return content


def refuse_other_tower(content: Mapping[str, Any], *, tower: str, source: str) -> None:
    """Raises CheckpointError where a checkpoint was trained beside another tower."""
    found = content.get(RECORD, {}).get("tower")
    if found != tower:
        raise CheckpointError(
            f"{source} was trained with another vision tower ({found}, here {tower}); set model.tower.weights to "
            "that of its run, see its config.yaml"
        )


def _runs(folder: Path) -> list[Path]:
    """Runs with a checkpoint at or below a folder, oldest first; the folder itself alone if it is one."""
    if (folder / FOLDER / "last").is_file():
        return [folder]
    found = [path.parents[1] for path in folder.glob(f"*/{FOLDER}/last")]
    return sorted(found, key=lambda run: (run / FOLDER / "last").stat().st_mtime_ns)


def _steps(run: Path) -> str:
    steps = [str(read_manifest(path).step) for path in committed(run / FOLDER)]
    return f"there is model.load_step={', '.join(steps)}" if steps else "it has no checkpoint"


def _no_run(folder: Path) -> str:
    where = folder.parent
    beside = sorted({run for each in where.glob("*") if each.is_dir() for run in _runs(each)}) if where.is_dir() else []
    found = f"there is {', '.join(map(str, beside[-5:]))}" if beside else f"nor is there any other run in {where}"
    why = "holds no run with a checkpoint" if folder.is_dir() else "is not there"
    return (
        f"model.stage1={folder} {why}; {found}. Train the first stage, give its run folder, or set model.stage1=null "
        "to train without one (end to end)"
    )
