"""The jobs of a sweep: what was asked for, where each writes, how it stands, and what came out, best first."""

import hashlib
import json
import math
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml
from rich.table import Table

from common.files import atomic_write_text
from common.loggers import read_metrics
from common.run import git_state

RECORD = "jobs.json"
SWEEPS = "sweeps"  # folder of the sweeps of one family of runs
SOURCES = ("common", "conf", "hydra_plugins", "launchers", "projects")  # what a job runs


class JobError(ValueError):
    """A job cannot be started as it was submitted, or did not end well."""


@dataclass(frozen=True)
class Code:
    """Which code a job was submitted with."""

    revision: str | None  # git commit; None outside a checkout
    changes: str | None  # digest of what tracked sources have on top of it; None for nothing


@dataclass(frozen=True)
class Job:
    """One job of a sweep; plain text, for it waits in a file until it runs."""

    command: str  # module, such as launchers.train
    config_name: str
    number: int
    overrides: tuple[str, ...]
    folder: str  # of the run, absolute
    code: Code
    id: str | None = None  # of SLURM: 12, or 12_0 in an array
    state: str | None = None  # where SLURM does not say

    @property
    def settings(self) -> dict[str, str]:
        """Values by key; a deletion (`~key`) has none."""
        return {key: value for key, _, value in (word.partition("=") for word in self.overrides)}

    def arguments(self) -> list[str]:
        """The command line of the job by itself."""
        return [*self.overrides, "hydra.mode=RUN", f"hydra.run.dir='{self.folder}'"]


def code_of(root: Path) -> Code:
    """The code of a checkout as it is now."""
    revision, dirty = git_state(root)
    if not dirty:
        return Code(revision, None)
    command = ["git", "diff", "HEAD", "--binary", "--", *SOURCES]
    changes = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
    return Code(revision, hashlib.blake2b(changes, digest_size=8).hexdigest() if changes else None)


def refuse_other_code(submitted: Code, root: Path) -> None:
    """Raises JobError where the checkout is not what it was when the job was submitted."""
    now = code_of(root)
    if now == submitted:
        return
    if now.revision != submitted.revision:
        what = f"the checkout is at {now.revision}, the job was submitted at {submitted.revision}"
        remedy = f"git checkout {submitted.revision}"
    else:
        what = f"tracked files in {', '.join(SOURCES)} have been edited since the job was submitted"
        remedy = "take the edits back"
    raise JobError(f"{what}; {remedy}, or submit again (a second clone lets jobs wait while you work)")


def write_jobs(sweep: Path, jobs: Sequence[Job]) -> None:
    """Records the jobs of a sweep in its folder."""
    atomic_write_text(sweep / RECORD, json.dumps([asdict(job) for job in jobs], indent=2) + "\n")


def read_jobs(sweep: Path) -> list[Job]:
    """The jobs that a folder of a sweep records; none where nothing was submitted.

    Raises:
        JobError: the record is damaged, or of another version.
    """
    record = sweep / RECORD
    if not record.exists():
        return []
    try:
        rows = json.loads(record.read_text(encoding="utf-8"))
        return [Job(**{**row, "overrides": tuple(row["overrides"]), "code": Code(**row["code"])}) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise JobError(
            f"{record} is no record of jobs ({error}). The runs are whole: each is a folder beside it, and "
            "squeue and scancel know the jobs"
        ) from error


def sweep_folder(name: str, outputs: Path) -> Path:
    """The folder that a name means: `last` for the newest sweep below the outputs, or a folder of one.

    Raises:
        JobError: there is none.
    """
    if name != "last":
        if not (Path(name) / RECORD).exists():
            raise JobError(f"{name} is no folder of a sweep: it has no {RECORD}")
        return Path(name)
    found = sorted(outputs.glob(f"*/{SWEEPS}/*/{RECORD}"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise JobError(f"no sweep below {outputs}; start one with -m, or name its folder")
    return found[-1].parent


@dataclass(frozen=True)
class Outcome:
    """What the run of a job has come to."""

    job: Job
    step: int | None = None
    steps: int | None = None
    objective: str | None = None
    direction: str = "min"
    best: float | None = None
    last: float | None = None


def outcome(job: Job) -> Outcome:
    """Reads the run folder of a job, at any time."""
    folder = Path(job.folder)
    metrics, config = folder / "metrics.csv", folder / "config.yaml"
    if not metrics.exists() or not config.exists():
        return Outcome(job)
    asked = yaml.safe_load(config.read_text(encoding="utf-8"))
    table = read_metrics(metrics)
    scores = {step: value for step, value in table.get(asked["objective"], {}).items() if math.isfinite(value)}
    choose = min if asked["direction"] == "min" else max
    return Outcome(
        job,
        step=max((step for steps in table.values() for step in steps), default=None),
        steps=asked["steps"],
        objective=asked["objective"],
        direction=asked["direction"],
        best=choose(scores.values(), default=None),
        last=scores[max(scores)] if scores else None,
    )


def ranked(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Best first; those without a score behind, in the order of their numbers."""
    sign = 1 if not outcomes or outcomes[0].direction == "min" else -1
    return sorted(outcomes, key=lambda each: (math.inf if each.best is None else sign * each.best, each.job.number))


def table(outcomes: Sequence[Outcome], *, title: str) -> Table:
    """Outcomes as they are shown: what was tried, how it stands, and the objective, best first."""
    objective = next((each.objective for each in outcomes if each.objective), "objective")
    differing = swept([each.job for each in outcomes])
    shown = Table("job", "state", "step", f"best {objective}", "last", *differing, title=title)
    for each in ranked(outcomes):
        values = each.job.settings
        step = "" if each.step is None else f"{each.step}" + ("" if each.steps is None else f"/{each.steps}")
        name = f"{each.job.number}" + (f" ({each.job.id})" if each.job.id else "")
        figures = ["" if value is None else f"{value:.4g}" for value in (each.best, each.last)]
        shown.add_row(name, each.job.state or "", step, *figures, *(values.get(key, "") for key in differing))
    return shown


def as_rows(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """The same as rows, for a file."""
    differing = swept([each.job for each in outcomes])
    rows: list[dict[str, object]] = []
    for each in ranked(outcomes):
        values = each.job.settings
        row = {"job": each.job.number, "state": each.job.state, "step": each.step, "objective": each.objective}
        tried = {key: values.get(key) for key in differing}
        rows.append({**row, "best": each.best, "last": each.last, "tried": tried, "folder": each.job.folder})
    return rows


def swept(jobs: Sequence[Job]) -> list[str]:
    """Keys of the overrides that differ between jobs."""
    settings = [job.settings for job in jobs]
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({each.get(key) for each in settings}) > 1]


def with_states(jobs: Sequence[Job], states: dict[str, str]) -> list[Job]:
    """Jobs with what SLURM says of each; of one that it no longer knows, what was recorded."""
    return [replace(job, state=states.get(job.id or "", job.state)) for job in jobs]
