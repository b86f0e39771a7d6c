"""Checkpoint files: committed whole, verified before use, found by name.

A checkpoint `step_0000120.ckpt` counts only when its manifest `step_0000120.json` is beside it. The order of a save is:
temporary name, flush, manifest with size and checksum, rename, `last`, and only then the removal of what it replaces;
a process killed at any point leaves the newest committed checkpoint intact.
"""

import json
import logging
import os
import re
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from common.files import atomic_write_text

log = logging.getLogger(__name__)
FOLDER = "checkpoints"
NAME = re.compile(r"step_\d{7,}\.ckpt")
TEMPORARY = re.compile(r"\.+(step_\d{7,}\.(ckpt|json)|last|direction)(\.part|\.[0-9a-f]{8})*\.part")
CHUNK = 1 << 24


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or of another model."""


@dataclass(frozen=True)
class Manifest:
    """What is beside each checkpoint. `metrics` holds the latest validation, `score` the objective if it has one."""

    step: int
    samples: int
    size: int
    crc32: int
    objective: str
    score: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def commit(temporary: Path, final: Path, manifest: Manifest) -> None:
    """Turns a written temporary file into the checkpoint `final`, and `last` into a pointer to it."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    # Whole before the rename, which then needs no space.
    beside = temporary.with_name(temporary.name.replace(".ckpt.", ".json."))
    assert beside != temporary, f"{temporary.name}: temporary names are of the form .{final.name}.*.part"
    atomic_write_text(beside, json.dumps(asdict(manifest), indent=2) + "\n")
    temporary.replace(final)
    beside.replace(final.with_suffix(".json"))
    atomic_write_text(final.parent / "last", final.name + "\n")


def leftovers(folder: Path) -> list[Path]:
    """Temporary files that a killed or failed save of this project left in a folder of checkpoints."""
    return sorted(path for path in folder.iterdir() if TEMPORARY.fullmatch(path.name))


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint file.

    Raises:
        CheckpointError: there is none, or it is damaged (empty after a power cut, for one).
    """
    beside = checkpoint.with_suffix(".json")
    try:
        return Manifest(**json.loads(beside.read_text()))
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise CheckpointError(f"{beside} is not the manifest of a checkpoint ({error})") from error


def _manifest(checkpoint: Path) -> Manifest | None:
    """The manifest of a checkpoint file, or None."""
    try:
        return read_manifest(checkpoint)
    except CheckpointError:
        return None


def is_good(checkpoint: Path) -> bool:
    """Whether a checkpoint is committed and has the size and checksum of its manifest."""
    manifest = _manifest(checkpoint)
    if manifest is None or not checkpoint.exists():
        return False
    return checkpoint.stat().st_size == manifest.size and checksum(checkpoint) == manifest.crc32


def _scores(paths: Iterable[Path]) -> dict[Path, float]:
    """Scores of those checkpoints that have one."""
    manifests = {path: _manifest(path) for path in paths}
    return {path: each.score for path, each in manifests.items() if each is not None and each.score is not None}


def committed(folder: Path) -> list[Path]:
    """Committed checkpoints of a folder, oldest first (contents not verified)."""
    named = [path for path in folder.glob("step_*.ckpt") if NAME.fullmatch(path.name)]  # not what a user put there
    return sorted(path for path in named if path.with_suffix(".json").exists())


def newest_good(folder: Path) -> Path | None:
    """The newest checkpoint that verifies; damaged newer ones are passed over with a warning."""
    for path in reversed(committed(folder)):
        if is_good(path):
            return path
        log.warning("%s does not match its manifest; taking the one before", path)
    return None


def best(folder: Path, direction: str) -> Path | None:
    """The verified checkpoint with the best score, the earlier one of equals; None when none has a score."""
    sign = 1 if direction == "min" else -1
    ranked = sorted((sign * score, path) for path, score in _scores(committed(folder)).items())
    return next((path for _, path in ranked if is_good(path)), None)


def retain(folder: Path, *, keep_last: int, keep_best: int, direction: str) -> list[Path]:
    """Removes committed checkpoints that are neither among the newest nor among the best.

    Returns:
        What was removed.
    """
    paths = committed(folder)
    sign = 1 if direction == "min" else -1
    ranked = sorted((sign * score, path) for path, score in _scores(paths).items())
    kept = {*paths[-keep_last:], *(path for _, path in ranked[:keep_best])}
    removed = [path for path in paths if path not in kept]
    for path in removed:
        path.with_suffix(".json").unlink()  # the manifest first: half a removal is an uncommitted file
        path.unlink()
    return removed


def locate(ckpt: str, runs: Path) -> Path:
    """The checkpoint file that a `ckpt=` value means.

    Args:
        ckpt: `last` or `best` (of the newest run below `runs` that has a checkpoint), a run folder or a folder of
            runs (its newest), either with `/best` behind it, or a checkpoint file.
        runs: folder of the runs of one family.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = Path(ckpt)
    if path.is_file():
        if path.with_suffix(".json").exists() and not is_good(path):
            raise CheckpointError(f"{path} does not match its manifest; it is damaged, choose another checkpoint")
        return path
    which = path.name if path.name in ("last", "best") else "last"
    if ckpt in ("last", "best"):
        run = _newest_run(runs)
    else:
        run = path.parent if path.name in ("last", "best") else path
        run = run if (run / FOLDER).is_dir() else _newest_run(run)
    folder = run / FOLDER
    found = best(folder, _direction(run)) if which == "best" else newest_good(folder)
    if found is None:
        raise CheckpointError(f"ckpt={ckpt}: no {'scored ' if which == 'best' else ''}checkpoint in {folder}")
    return found


def _newest_run(runs: Path) -> Path:
    """The run that saved last. Not by the pointers `last`: the first save may have been cut off before it wrote one."""
    newest = {folder.parent: saved[-1] for folder in runs.glob(f"**/{FOLDER}") if (saved := committed(folder))}
    if not newest:
        raise CheckpointError(f"no run with a checkpoint below {runs}; launchers.train without ckpt starts one")
    return max(newest, key=lambda run: newest[run].with_suffix(".json").stat().st_mtime_ns)


def _direction(run: Path) -> str:
    record = run / FOLDER / "direction"
    if not record.is_file():
        raise CheckpointError(f"{record} is missing, so which score is best is not known; name a checkpoint file")
    return record.read_text().strip()


def load_file(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU: tensors and plain containers, never code.

    Raises:
        CheckpointError: the file is something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, UnpicklingError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of this project: it holds something else than tensors and plain containers"
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CheckpointError(f"{path} is no checkpoint of this project: it has no state_dict")
    return content


def trainable_names(module: nn.Module) -> list[str]:
    """Names of the parameters that train."""
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def load_trained(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copies trained tensors into a module; each name must exist there with its shape.

    Raises:
        CheckpointError: lists what the module does not have and what differs in shape.
    """
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    foreign = sorted(name for name in state if name not in own)
    differing = [
        f"{name}: {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the model"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    if foreign or differing:
        raise CheckpointError(
            f"{source} is of another model; unknown: {foreign or 'none'}; shapes: {differing or 'equal'}"
        )
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def check_names(expected: Collection[str], found: Collection[str], *, source: str) -> None:
    """Raises CheckpointError unless a checkpoint holds exactly what trains."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"{source} does not hold what this configuration trains; missing: {missing[:8] or 'none'}; "
            f"not trained here: {extra[:8] or 'none'}; resume with the configuration of its run folder, "
            "or start a new run from it with init="
        )
