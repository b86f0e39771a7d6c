"""A SLURM on this machine, and a checkout of its own that jobs run from."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.checkpoint import read_manifest
from common.jobs import Job, read_jobs
from common.slurm import ENDED
from tests.slurm.one_machine import Cluster, problem

ROOT = Path(__file__).resolve().parents[2]
TOY = [
    "callbacks=default",
    "objective=val/loss",
    "direction=min",
    "prepare=[]",
    "steps=12",
    "validate_every=100",
    "callbacks.checkpointing.every=100",
    "+callbacks.stopping.agree_every=2",
    "batch.global=2",
    "batch.micro=2",
    "batch.eval=1",
    "slurm.minutes=10",
    "slurm.look_every=0.5",
]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files as they are, in a repository of their own: a job refuses to run from another revision."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout, so that its files are not known")
    for name in (name for name in done.stdout.splitlines() if (ROOT / name).is_file()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    commit(folder, "all")
    return folder


def commit(folder: Path, message: str) -> None:
    """Commits everything in a folder, which becomes a repository if it is none."""
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", message]):
        subprocess.run([*git, *words], cwd=folder, check=True)


@dataclass
class User:
    """Someone at a terminal of the cluster."""

    cluster: Cluster
    checkout: Path
    outputs: Path

    def command(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        where = self.cluster.environment | {"OMP_NUM_THREADS": "1"} | environment
        return subprocess.run(words, cwd=self.checkout, env=where, capture_output=True, text=True, check=False)

    def toy(self, *overrides: str, module: str = "tests.slurm.train") -> list[str]:
        """The command line of a toy training on the cluster."""
        words = [*TOY, f"paths.outputs={self.outputs}", *overrides]
        return [sys.executable, "-m", module, "-m", "cluster=slurm", *words]

    def submit(self, *overrides: str, **environment: str) -> Job:
        """Submits a toy training of one job and leaves."""
        done = self.command(*self.toy("slurm.detach=true", *overrides), **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.jobs()[0]

    def jobs(self) -> list[Job]:
        """The jobs of the newest sweep."""
        return read_jobs(self.sweep())

    def sweep(self) -> Path:
        """The folder of the newest sweep."""
        return max(self.outputs.glob("*/sweeps/*"), key=lambda folder: folder.name)

    def state(self, job: Job) -> str | None:
        """What SLURM says of a job."""
        return self.cluster.states().get(str(job.id))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for a condition; the logs of the jobs are in the error."""
        try:
            self.cluster.wait(condition, what, seconds=float(os.environ.get("FRAMELAB_SLURM_SECONDS", "300")))
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from error

    def end(self, job: Job) -> str:
        """Waits until a job has ended, and says how."""
        self.wait(lambda: self.state(job) in ENDED, f"job {job.id} ends")
        return str(self.state(job))

    def logs(self) -> str:
        """What all jobs of the newest sweep have printed."""
        files = sorted(self.sweep().glob(".submitit/*/*log*"))
        return "".join(f"--- {path.name}\n{path.read_text()}" for path in files)


def steps(job: Job, rank: int = 0) -> list[tuple[int, int]]:
    """(start, step) of each step that a rank of a job has done."""
    path = Path(job.folder) / f"steps.{rank}"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(start), int(step)) for start, step in (line.split() for line in lines)]


def saved(job: Job) -> list[int]:
    """Steps of the checkpoints of a job."""
    found = sorted((Path(job.folder) / "checkpoints").glob("step_*.ckpt"))
    return [read_manifest(path).step for path in found]


def _user(checkout: Path, factory: pytest.TempPathFactory, *, user_signal: bool) -> Iterator[User]:
    if (reason := problem()) is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:  # a short path, for its sockets
        cluster = Cluster(Path(folder), user_signal=user_signal)
        try:
            cluster.start()
            yield User(cluster, checkout, factory.mktemp("outputs"))
        finally:
            cluster.stop()


@pytest.fixture(scope="module")
def user(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Someone on a cluster that warns jobs before another takes their place."""
    yield from _user(checkout, tmp_path_factory, user_signal=True)


@pytest.fixture(scope="module")
def plain_user(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Someone on a cluster that sends them SIGTERM only."""
    yield from _user(checkout, tmp_path_factory, user_signal=False)
