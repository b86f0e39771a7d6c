"""The same command on this machine and on a cluster gives the same run, for each method, also when it is put back."""

import sys
from pathlib import Path

import pytest

from common.checkpoint import committed, load_file, locate
from common.jobs import Job
from common.loggers import read_metrics
from common.run import read_starts
from tests.experiments import one_of_each
from tests.slurm.conftest import User
from tests.stages import first_stage
from tests.test_resume import assert_equal, averages, losses

pytestmark = pytest.mark.slow

SMALL = [
    "batch.global=4",
    "batch.micro=2",
    "batch.eval=16",
    "callbacks.metrics_log.every=1",
    "prepare=[]",
]
CLUSTER = ["-m", "cluster=slurm", "slurm.minutes=20", "slurm.look_every=0.5"]
STEPS = 60  # enough that another job comes in between
TWO = [f"steps={STEPS}", f"validate_every={STEPS // 2}", "trainer.strategy=ddp", "+callbacks.stopping.agree_every=2"]


@pytest.fixture(scope="module", params=one_of_each())
def method(request: pytest.FixtureRequest, shapes: Path) -> list[str]:
    """Overrides that choose a tiny method and its data."""
    return [f"experiment={request.param}", f"paths.data={shapes}", *SMALL, *first_stage(request.param, shapes)]


def train(user: User, folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "launchers.train", *words, f"paths.outputs={folder}"]
    done = user.command(*command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def assert_same(run: Path, other: Path) -> None:
    """Losses of each step, weights, optimizer and average are the same bit for bit."""
    assert losses(run) == losses(other)
    ours, reference = (load_file(committed(each / "checkpoints")[-1]) for each in (run, other))
    for part in ("state_dict", "optimizer_states"):
        assert_equal(ours[part], reference[part], part)
    assert_equal(averages(ours), averages(reference), "average")


def test_an_array_gives_the_runs_of_this_machine(method: list[str], user: User, tmp_path: Path) -> None:
    few = [*method, "steps=4", "validate_every=2"]
    train(user, user.outputs, *CLUSTER, *few, "seed=0,1")
    jobs = user.jobs()
    assert [job.state for job in jobs] == ["COMPLETED", "COMPLETED"], user.logs()
    train(user, tmp_path, *few, "seed=1")
    here = locate("last", tmp_path).parents[1]
    assert_same(Path(jobs[1].folder), here)
    assert losses(Path(jobs[0].folder)) != losses(here)


def test_two_nodes_that_make_room_end_as_two_processes_here(method: list[str], user: User, tmp_path: Path) -> None:
    place = ["trainer.num_nodes=2", "slurm.partition=spare", "slurm.detach=true", "slurm.warning=50"]
    train(user, user.outputs, *CLUSTER, *method, *TWO, *place)
    (job,) = user.jobs()
    user.wait(lambda: steps_of(job) >= 4, "it trains")
    user.command("sbatch", "-p", "main", "-N", "2", "-c", "4", "-o", "/dev/null", "--wrap", "sleep 1")
    assert user.end(job) == "COMPLETED", user.logs()
    first, second = read_starts(Path(job.folder))
    assert first.resumed_from is None
    assert second.resumed_from is not None
    assert Path(second.resumed_from).name < f"step_{STEPS:07}.ckpt"
    train(user, tmp_path, *method, *TWO, "trainer.devices=2")
    assert_same(Path(job.folder), locate("last", tmp_path).parents[1])


def steps_of(job: Job) -> int:
    """Steps that a job has written down."""
    path = Path(job.folder) / "metrics.csv"
    return max((step for steps in read_metrics(path).values() for step in steps), default=0) if path.exists() else 0
