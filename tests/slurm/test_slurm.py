"""What a user of a SLURM cluster relies on, on a real SLURM: two virtual nodes on this machine."""

import re
import subprocess
import sys
from pathlib import Path

from common.jobs import Job
from common.run import read_starts
from tests.experiments import in_turn
from tests.slurm.conftest import User, commit, saved, steps

TWO = ("trainer.devices=2", "trainer.strategy=ddp", "batch.micro=1")  # tasks of one node
SLOW = {"TOY_SECONDS": "0.5"}


def goes_on(job: Job, ranks: int) -> tuple[int, int]:
    """Where the second start of a run began and up to where the first one came; equal on all ranks."""
    places = set()
    for rank in range(ranks):
        first = [step for start, step in steps(job, rank) if start == 0]
        second = [step for start, step in steps(job, rank) if start == 1]
        places.add((second[0], first[-1] + 1))
    assert len(places) == 1, places
    return places.pop()


@in_turn(0)
def test_two_tasks_train_one_run(user: User) -> None:
    job = user.submit(*TWO)
    assert user.end(job) == "COMPLETED", user.logs()
    assert [step for _, step in steps(job, 0)] == [step for _, step in steps(job, 1)] == list(range(12))
    assert saved(job) == [12]
    assert len(read_starts(Path(job.folder))) == 1
    logs = Path(job.folder) / f"slurm-{job.id}"
    assert {f"{job.id}_{rank}_log.err" for rank in (0, 1)} <= {path.name for path in logs.iterdir()}
    assert logs.resolve().parent.stat().st_mode & 0o777 == 0o700


@in_turn(1)
def test_two_nodes_train_one_run(user: User) -> None:
    job = user.submit("trainer.num_nodes=2", "trainer.strategy=ddp", "batch.micro=1")
    assert user.end(job) == "COMPLETED", user.logs()
    assert [step for _, step in steps(job, 0)] == [step for _, step in steps(job, 1)] == list(range(12))


@in_turn(2)
def test_a_sweep_is_an_array_and_ends_in_a_table(user: User) -> None:
    done = user.command(*user.toy("seed=2,0,1", "slurm.parallel=1", "validate_every=6"))
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = user.jobs()
    assert len({str(job.id).partition("_")[0] for job in jobs}) == 1
    times = [(Path(job.folder) / f".completed-{job.id}").stat().st_mtime for job in jobs]
    starts = [(Path(job.folder) / "run.json").stat().st_mtime for job in jobs]
    assert all(later >= earlier for later, earlier in zip(starts[1:], times, strict=False))  # one at a time
    rows = [line for line in done.stdout.splitlines() if "COMPLETED" in line]
    assert [re.findall(r"\d+", row)[-1] for row in rows] == ["0", "1", "2"], done.stdout  # seeds, best first


@in_turn(3)
def test_a_job_whose_time_is_over_saves_and_goes_on(user: User) -> None:
    job = user.submit(*TWO, "steps=600", "slurm.minutes=2", "slurm.warning=40", **SLOW)
    user.wait(lambda: bool([1 for start, _ in steps(job) if start == 1]), "the job is started again")
    began, before = goes_on(job, ranks=2)
    assert began == before > 1
    user.wait(lambda: user.state(job) == "RUNNING", "SLURM knows that it runs")
    user.cluster.run("scancel", str(job.id))


@in_turn(4)
def test_a_job_that_makes_room_goes_on_at_one_agreed_step(user: User) -> None:
    preempted_and_resumed(user)


@in_turn(5)
def test_a_job_that_makes_room_on_sigterm_alone_goes_on_as_well(plain_user: User) -> None:
    preempted_and_resumed(plain_user)


def preempted_and_resumed(user: User) -> None:
    place = ("slurm.partition=spare", "+slurm.more.nodelist=node1", "slurm.cpus=2")
    job = user.submit(*TWO, *place, "steps=60", "slurm.warning=50", **SLOW)
    user.wait(lambda: len(steps(job, 1)) > 4, "both ranks train")
    user.command("sbatch", "-p", "main", "-w", "node1", "-c", "4", "-o", "/dev/null", "--wrap", "sleep 1")
    assert user.end(job) == "COMPLETED", user.logs()
    began, before = goes_on(job, ranks=2)
    assert began == before
    assert began % 2 == 0  # where they agree
    assert [start.generation for start in read_starts(Path(job.folder))] == [1, 2]
    assert saved(job)[-1] == 60


@in_turn(6)
def test_a_job_of_a_node_that_fails_goes_on_from_its_checkpoint(user: User) -> None:
    job = user.submit("steps=40", "callbacks.checkpointing.every=5", "+slurm.more.nodelist=node1", **SLOW)
    user.wait(lambda: saved(job) != [], "a checkpoint")
    user.cluster.kill_node("node1")
    newest = saved(job)[-1]
    user.wait(lambda: user.state(job) == "PENDING", "SLURM misses the node")
    user.cluster.start_node("node1")
    assert user.end(job) == "COMPLETED", user.logs()
    began = min(step for start, step in steps(job) if start == 1)
    assert began == newest
    assert [start.generation for start in read_starts(Path(job.folder))] == [1, 2]


@in_turn(7)
def test_a_rank_that_fails_ends_the_job_as_failed(user: User) -> None:
    done = user.command(*user.toy(*TWO, "steps=1000"), TOY_FAULT="raise:1:3", **SLOW)
    assert user.state(user.jobs()[0]) == "FAILED"
    assert done.returncode == 1
    assert "job 0 is FAILED" in done.stderr
    assert "a fault that was put in" in user.logs()
    assert max(step for _, step in steps(user.jobs()[0], 0)) < 10  # rank 0 did not wait for it


@in_turn(8)
def test_status_and_cancel(user: User) -> None:
    job = user.submit(*TWO, "steps=1000", **SLOW)
    user.wait(lambda: len(steps(job, 1)) > 4, "both ranks train")
    shown = user.command(sys.executable, "-m", "launchers.sweep", "--outputs", str(user.outputs))
    assert "RUNNING" in shown.stdout, shown.stderr
    stopped = user.command(sys.executable, "-m", "launchers.sweep", "cancel", str(user.sweep()))
    assert stopped.returncode == 0, stopped.stderr
    assert user.end(job) == "CANCELLED"
    assert saved(job) != []  # SIGTERM leaves time for it
    assert read_starts(Path(job.folder))[-1].generation == 1
    shown = user.command(sys.executable, "-m", "launchers.sweep", "status", str(user.sweep()))
    assert "CANCELLED" in shown.stdout


@in_turn(9)
def test_another_number_of_tasks_is_refused(user: User) -> None:
    run = [*(word for word in user.toy("trainer.devices=2", "hydra.mode=RUN") if word != "-m")]
    words = ["srun", "-n3", run[0], "-m", *run[1:], f"hydra.run.dir={user.outputs}/refused"]
    done = user.command(*words)
    assert done.returncode != 0
    assert "3 tasks" in done.stderr
    assert "trainer.devices=2 x trainer.num_nodes=1 = 2" in done.stderr


@in_turn(10)
def test_tasks_without_a_common_folder_are_refused(user: User) -> None:
    run = [*(word for word in user.toy(*TWO, "hydra.mode=RUN") if word != "-m")]
    done = user.command("srun", "-n2", run[0], "-m", *run[1:])
    assert done.returncode != 0
    assert "do not know one run folder" in done.stderr


@in_turn(11)
def test_another_revision_than_the_submitted_one_is_refused(user: User, tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", str(user.checkout), str(tmp_path / "clone")], check=True)
    other = User(user.cluster, tmp_path / "clone", tmp_path / "outputs")
    job = other.submit("+slurm.more.hold=true")
    (other.checkout / "launchers" / "new.py").write_text("")
    commit(other.checkout, "another")
    user.cluster.run("scontrol", "release", str(job.id))
    assert other.end(job) == "FAILED"
    assert "the job was submitted at" in other.logs()
    assert steps(job) == []


@in_turn(12)
def test_one_wrong_job_keeps_all_of_a_sweep_from_the_queue(user: User) -> None:
    before = user.cluster.states()
    done = user.command(*user.toy("batch.micro=1,3", "model.lr=1e-3,1e-4"))
    assert done.returncode == 1
    assert "job 2" in done.stderr
    assert "nothing was started" in done.stderr
    done = user.command(*user.toy("trainer.devices=1,2"))
    assert "all jobs of an array have one shape" in done.stderr
    assert user.cluster.states().keys() <= before.keys()  # old ones may have been forgotten meanwhile


@in_turn(13)
def test_what_slurm_refuses_is_said(user: User) -> None:
    done = user.command(*user.toy("slurm.partition=none_such"))
    assert done.returncode == 1
    assert "invalid partition" in done.stderr


@in_turn(14)
def test_a_job_that_does_not_get_on_is_not_started_for_ever(user: User) -> None:
    job = user.submit("steps=1000", "slurm.idle_starts=2", TOY_SECONDS="60")  # too slow to save when it is told to
    for start in (0, 1):
        user.wait(lambda start=start: start in [each for each, _ in steps(job)], "it trains")
        user.cluster.run("scontrol", "requeue", str(job.id))
    assert user.end(job) == "FAILED"
    assert "the last 2 starts of this run made no new checkpoint" in user.logs()
    assert {start for start, _ in steps(job)} == {0, 1}


@in_turn(15)
def test_a_preparation_task_is_spread_over_an_array(user: User, tmp_path: Path) -> None:
    prepare = [sys.executable, "-m", "launchers.prepare"]
    where = [f"paths.data={tmp_path}", f"paths.outputs={user.outputs}"]
    done = user.command(*prepare, "task=shapes", "task.clips={train:10,val:4,test:4}", *where)
    assert done.returncode == 0, done.stderr
    shards = ["task=clip_features_tiny", "task.shard_size=4", "task.num_workers=1", "task.shard=0/2,1/2"]
    small = ["slurm.gpus=0", "slurm.cpus=1", "slurm.minutes=10", "slurm.look_every=0.5"]
    done = user.command(*prepare, "-m", "cluster=slurm", *shards, *small, *where)
    assert done.returncode == 0, done.stdout + done.stderr + user.logs()
    assert [job.state for job in user.jobs()] == ["COMPLETED", "COMPLETED"]
    made = [path for path in tmp_path.rglob("shard_*.json")]
    assert len(made) == 5  # of 18 clips
    assert [path.parent for path in tmp_path.rglob("index.json")] == [made[0].parent]


SLOW_TO_START = """
import os, pathlib, time
if "SLURM_PROCID" in os.environ:
    pathlib.Path(__file__).with_name("started").touch()
    while not pathlib.Path(__file__).with_name("warned").exists():
        time.sleep(0.1)
"""


@in_turn(16)
def test_a_warning_while_python_starts_kills_no_task(user: User, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_TO_START)
    job = user.submit(PYTHONPATH=str(tmp_path))
    user.wait((tmp_path / "started").exists, "Python starts")
    for name in ("USR2", "TERM"):
        user.cluster.run("scancel", f"--signal={name}", str(job.id))
    (tmp_path / "warned").touch()
    assert user.end(job) == "COMPLETED", user.logs()
    assert len(read_starts(Path(job.folder))) == 1
