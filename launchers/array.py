"""cluster=slurm: the jobs of a sweep as an array of SLURM, through submitit."""

import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from common.config import ConfigError
from common.jobs import Job, with_states
from common.slurm import ENDED, SlurmError, queue
from launchers.jobs import JobLauncher, recorded
from launchers.task import Task, completed

log = logging.getLogger(__name__)
FOLDER = ".submitit"
SHAPE = ("nodes", "tasks", "cpus", "gpus")  # of a job; one for all of an array

# How a task starts its Python. Until submitit has its handlers in place a warning would kill the task, and the job
# would end as failed. One that is not heard costs little: SLURM ends the job with its time of grace and puts it back.
DEAF = """bash -c 'trap "" USR2 TERM; exec "$0" "$@"' """

UNLIMITED = 1_000_000  # time-outs that submitit counts; what bounds requeues is that a run gets on (common/run.py)


class SlurmLauncher(JobLauncher):
    """Submits a batch as one array, and waits for it unless it is to leave."""

    def __init__(
        self,
        *,
        name: str,
        nodes: int,
        tasks: int,
        cpus: int,
        gpus: int,
        minutes: int,
        memory: str | None,
        partition: str | None,
        account: str | None,
        qos: str | None,
        constraint: str | None,
        gres: str | None,
        parallel: int,
        warning: int,
        setup: Sequence[str],
        more: Mapping[str, Any],
        detach: bool,
        look_every: float,
    ) -> None:
        """
        Args:
            name: of the jobs in the queue.
            nodes: of a job.
            tasks: of a node, one for each device.
            cpus: cores of a task.
            gpus: of a node; not asked for where `gres` says it.
            minutes: a job may run.
            memory: of a node, such as 64G.
            partition: where the job runs; this and the four below are left to the cluster if null.
            account: who pays.
            qos: quality of service.
            constraint: features of the nodes.
            gres: generic resources, such as gpu:a100:8.
            parallel: jobs of an array that run at once.
            warning: seconds before the end at which a job is told to save.
            setup: shell commands before the run, such as module load.
            more: further options of sbatch by their long names, such as {mail-type: FAIL}.
            detach: submit and leave.
            look_every: seconds between two looks at the queue.
        """
        self.asked = {
            "job_name": name,
            "nodes": nodes,
            "ntasks_per_node": tasks,
            "cpus_per_task": cpus,
            "gpus_per_node": gpus if gpus and gres is None else None,
            "time": minutes,
            "mem": memory,
            "partition": partition,
            "account": account,
            "qos": qos,
            "constraint": constraint,
            "gres": gres,
            "array_parallelism": parallel,
            "signal_delay_s": warning,
            "setup": list(setup),
            "additional_parameters": {"requeue": True, **more},
            # srun does not take the cores of a task over from sbatch any more, and waits for the other tasks of a
            # failed one unless it is told not to.
            "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
        }
        self.shape = dict(zip(SHAPE, (nodes, tasks, cpus, gpus), strict=True))
        self.detach, self.look_every = detach, look_every

    def check_job(self, cfg: DictConfig) -> None:
        for key, value in self.shape.items():
            wanted = OmegaConf.select(cfg, f"slurm.{key}")
            if wanted != value:
                raise ConfigError(
                    f"slurm.{key} is {wanted}, that of the array is {value}; all jobs of an array have one shape, so "
                    "hardware and devices are not swept: submit an array for each"
                )

    def start(self, sweep: Path, earlier: Sequence[Job], batch: Sequence[Job]) -> list[Job]:
        """Submits the jobs; waits for them, or returns at once."""
        jobs = recorded(sweep, earlier, self._submit(sweep, batch))
        link_logs(sweep, jobs)
        if len(jobs) > 1:
            log.info("submitted %d jobs: %s to %s", len(jobs), jobs[0].id, jobs[-1].id)
        else:
            log.info("submitted a job: %s", jobs[0].id)
        log.info("python -m launchers.sweep status %s, or cancel in place of status", sweep)
        if self.detach:
            return jobs
        try:
            return self._wait(sweep, earlier, jobs)
        except KeyboardInterrupt:
            log.warning("the jobs stay in the queue")
            raise SystemExit(128 + signal.SIGINT) from None

    def _submit(self, sweep: Path, batch: Sequence[Job]) -> list[Job]:
        try:
            from submitit import SlurmExecutor
            from submitit.core.utils import FailedSubmissionError
        except ModuleNotFoundError as error:
            raise ConfigError("cluster=slurm needs submitit: pip install -e '.[slurm]'") from error
        folder = sweep / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)  # what lies there is executed
        try:
            python = DEAF + shlex.quote(sys.executable)
            executor = SlurmExecutor(folder / "%j", max_num_timeout=UNLIMITED, python=python)
            executor.update_parameters(**{name: value for name, value in self.asked.items() if value is not None})
            submitted = executor.submit_array([task_of(job) for job in batch])
        except (FailedSubmissionError, RuntimeError) as error:
            raise SlurmError(f"SLURM took no job: {error}") from error
        return [replace(job, id=each.job_id) for job, each in zip(batch, submitted, strict=True)]

    def _wait(self, sweep: Path, earlier: Sequence[Job], jobs: list[Job]) -> list[Job]:
        while True:
            time.sleep(self.look_every)
            try:
                states = queue()
            except SlurmError as error:  # the controller may be restarting; the jobs go on
                log.warning("%s", error)
                continue
            now = standing(jobs, states)
            if now != jobs:
                jobs = recorded(sweep, earlier, now)
            if all(job.state in (*ENDED, GONE) for job in jobs):
                return jobs


def link_logs(sweep: Path, jobs: Sequence[Job]) -> None:
    """Puts a link to what SLURM writes about each job into the folder of its run."""
    for job in jobs:
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        logs = sweep / FOLDER / str(job.id)
        (Path(job.folder) / f"slurm-{job.id}").symlink_to(os.path.relpath(logs, job.folder))


def task_of(job: Job) -> Task:
    """What is submitted of a job."""
    code = job.code
    return Task(job.command, job.config_name, tuple(job.arguments()), job.folder, code.revision, code.changes)


GONE = "GONE"  # SLURM has forgotten the job, and it did not end well


def standing(jobs: Sequence[Job], states: Mapping[str, str]) -> list[Job]:
    """Jobs with their states; what SLURM has forgotten has ended, well if it says so itself."""
    now = []
    for job in with_states(jobs, dict(states)):
        forgotten = job.id not in states and job.state not in ENDED
        done = job.id is not None and os.path.exists(completed(job.folder, job.id))
        now.append(replace(job, state="COMPLETED" if done else GONE) if forgotten else job)
    return now
