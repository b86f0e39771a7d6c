"""The folder of a run: where it is, what it records, and which of two copies of a run may write."""

import json
import logging
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from common.checkpoint import CheckpointError, locate
from common.files import atomic_write_text

log = logging.getLogger(__name__)
RECORD = "run.json"
CONFIG = "config.yaml"  # of the first start
UNTRAINED = "none"  # in place of a checkpoint
PACKAGES = ("torch", "lightning", "transformers", "hydra-core", "numpy")


@dataclass(frozen=True)
class Start:
    """One start of a run: the first has generation 1, every resumption one more."""

    generation: int
    command: list[str]
    time: str  # UTC, ISO 8601
    revision: str | None  # git commit; None outside a checkout
    dirty: bool | None  # uncommitted changes in tracked files
    resumed_from: str | None
    host: str
    python: str
    packages: dict[str, str]


class StaleRunError(ValueError):
    """A newer copy of this run has started; this one must not write any more."""


class IdleRunError(ValueError):
    """A run that has been started again several times without getting on."""


class NonFiniteError(ValueError):
    """A step whose loss or gradients are not finite; the optimizer has not used it."""


def run_folder(job: str, outputs: str, name: str, ckpt: str | None) -> str:
    """Folder of this start: a new one, or for a resumed training the one of its checkpoint.

    Args:
        job: name of the command (train, evaluate, ...).
        outputs: root of all runs.
        name: family of the run.
        ckpt: as in `common.checkpoint.locate`; None, or none for the untrained model.
    """
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]
    if ckpt is None or ckpt == UNTRAINED:
        return str(Path(outputs) / name / (stamp if job == "train" else f"{job}_{stamp}"))
    run = run_of(locate(ckpt, Path(outputs) / name))
    return str(run if job == "train" else run / f"{job}_{stamp}")


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint file lies in.

    Raises:
        CheckpointError: it lies in none.
    """
    run = checkpoint.parent.parent
    if not (run / CONFIG).is_file():
        raise CheckpointError(
            f"{checkpoint} lies in no run folder: {run} has no {CONFIG}; give a checkpoint where its run has it "
            "(to train from the weights of a file alone: init=)"
        )
    return run


def job_folder(job: str, outputs: str, name: str, ckpt: str | None, sweep: str, number: int) -> str:
    """Folder of one job of a sweep, within that of the sweep, or for a checkpoint where `run_folder` has it.

    Every process of a job comes to the same: nothing is read from a clock.

    Args:
        job: as in `run_folder`.
        outputs: as in `run_folder`.
        name: as in `run_folder`.
        ckpt: as in `run_folder`.
        sweep: folder of the sweep.
        number: of the job, from 0.
    """
    if ckpt is None or ckpt == UNTRAINED:
        return str(number)
    run = run_of(locate(ckpt, Path(outputs) / name)).absolute()
    return str(run if job == "train" else run / f"{job}_{Path(sweep).name}_{number}")


def begin(run: Path, *, config: str, resumed_from: Path | None, root: Path) -> Start:
    """Records this start in the run folder and fences off older copies.

    Args:
        run: the run folder.
        config: the composed configuration, YAML.
        resumed_from: checkpoint that the run goes on from.
        root: the checkout, for its revision.
    """
    run.mkdir(parents=True, exist_ok=True)
    with FileLock(run / ".start.lock"):  # two starts at the same moment have two numbers
        return _record(run, config=config, resumed_from=resumed_from, root=root)


def _record(run: Path, *, config: str, resumed_from: Path | None, root: Path) -> Start:
    starts = read_starts(run)
    revision, dirty = git_state(root)
    start = Start(
        generation=len(starts) + 1,
        command=sys.argv,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        revision=revision,
        dirty=dirty,
        resumed_from=str(resumed_from) if resumed_from else None,
        host=platform.node(),
        python=platform.python_version(),
        packages={package: version(package) for package in PACKAGES},
    )
    name = CONFIG if start.generation == 1 else f"config.{start.generation}.yaml"
    atomic_write_text(run / name, config)
    atomic_write_text(run / RECORD, json.dumps([asdict(each) for each in [*starts, start]], indent=2) + "\n")
    return start


def read_starts(run: Path) -> list[Start]:
    """All starts that a run folder records, oldest first; empty for a new folder."""
    path = run / RECORD
    return [Start(**each) for each in json.loads(path.read_text())] if path.exists() else []


def overtaken(run: Path, generation: int) -> str | None:
    """Why a start of a run must not write any more, or None: a newer start is recorded."""
    try:
        newest = len(read_starts(run))
    except OSError as error:  # a network disk that does not answer for a moment says nothing about other starts
        log.warning("%s cannot be read (%s); whether a newer start has taken over is not known", run, error.strerror)
        return None
    if newest <= generation:
        return None
    return f"{run}: start {newest} has taken this run over; start {generation} stops without writing"


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout and whether tracked files differ from it; (None, None) outside git, or without it."""
    if shutil.which("git") is None:
        return None, None
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    if head.returncode:
        return None, None
    status = ["git", "status", "--porcelain", "--untracked-files=no"]
    changes = subprocess.run(status, cwd=root, capture_output=True, text=True, check=True)
    return head.stdout.strip(), bool(changes.stdout.strip())


def refuse_idle(starts: Sequence[Start], ckpt: Path | None, *, limit: int) -> None:
    """Raises IdleRunError for a run that is started again and again without saving anything in between.

    Args:
        starts: of the run, oldest first; this one is not yet among them.
        ckpt: checkpoint that this start would go on from.
        limit: starts that may go on from the same place.
    """
    place = str(ckpt) if ckpt else None
    same = 0
    while same < len(starts) and starts[-1 - same].resumed_from == place:
        same += 1
    if same >= limit:
        raise IdleRunError(
            f"the last {same} starts of this run made no new checkpoint; give a job more time (slurm.minutes), or save "
            "more often (callbacks.checkpointing.every); its logs are in the run folder"
        )


SCIENCE = (
    *("seed", "model", "batch.global", "steps", "epochs", "init"),
    *("trainer.gradient_clip_val", "callbacks.ema"),
)


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises ValueError where a resumed run is asked to be another experiment; hardware and logging may change."""
    before, after = flatten(old), flatten(new)
    changed = sorted(
        key
        for key in before.keys() | after.keys()
        if any(key == name or key.startswith(name + ".") for name in SCIENCE) and before.get(key) != after.get(key)
    )
    if changed:
        details = ", ".join(f"{key} was {before.get(key)}, is {after.get(key)}" for key in changed[:5])
        raise ValueError(
            f"this run was started with other settings: {details}; give them again, or use init= instead of ckpt="
        )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as {dotted key: value}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
