"""What a process knows of the SLURM job that it is part of, and how rank 0 tells the others what it decided.

SLURM starts the processes of a job itself, so that none of them can hand its environment to another: what rank 0
decides (the checkpoint to go on from) goes through a file of the run folder, named by the job and its restart.
"""

import getpass
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.files import atomic_write_text

JOB = "FRAMELAB_JOB"  # the run folder that a job was given when it was submitted
TOLD = "FRAMELAB_TOLD"  # what rank 0 decided, for the processes that it starts itself
INTERACTIVE = ("bash", "interactive")  # names of jobs that stand for a terminal, to Lightning as well


class SlurmError(ValueError):
    """The SLURM job does not fit the run, or SLURM did not do what it was asked."""


def by_srun(environment: Mapping[str, str] | None = None) -> bool:
    """Whether SLURM started this process as a task of a job, and not a person at a terminal."""
    found = os.environ if environment is None else environment
    return "SLURM_NTASKS" in found and "SLURM_PROCID" in found and found.get("SLURM_JOB_NAME") not in INTERACTIVE


def refuse_other_tasks(devices: int, num_nodes: int) -> None:
    """Raises SlurmError unless the job has a task for each device; ranks would wait for what never comes.

    Args:
        devices: of a node, `trainer.devices`.
        num_nodes: of the run, `trainer.num_nodes`.
    """
    if not by_srun():
        return
    tasks = int(os.environ["SLURM_NTASKS"])
    if tasks != devices * num_nodes:
        raise SlurmError(
            f"this SLURM job has {tasks} tasks (SLURM_NTASKS), the run needs trainer.devices={devices} x "
            f"trainer.num_nodes={num_nodes} = {devices * num_nodes}; cluster=slurm asks for as many by itself"
        )
    if tasks > 1 and JOB not in os.environ:
        raise SlurmError(
            "the tasks of this SLURM job do not know one run folder; start it with cluster=slurm, which submits it"
        )


def restarts() -> int:
    """How often SLURM has started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) if by_srun() else 0


def being_preempted() -> bool:
    """Whether SLURM wants this job's place for another one; False when it was cancelled or has had its time.

    A job that ends in its time of grace is not put back by SLURM, so that a stopping run asks for it.
    """
    if not by_srun():
        return False
    shown = _ask(["scontrol", "show", "job", "--oneliner", os.environ["SLURM_JOB_ID"]])
    facts = dict(re.findall(r"(\w+)=(\S+)", shown))
    preempted = facts.get("PreemptTime", "None")
    # Times are written year first, so that letters compare as times do. That of an earlier life of the job stays.
    return facts.get("JobState") == "RUNNING" and preempted != "None" and preempted >= facts["StartTime"]


def tell(run: Path, word: str) -> None:
    """Lets the other processes of this run know what rank 0 decided.

    Args:
        run: the run folder.
        word: any text.
    """
    if by_srun():
        run.mkdir(parents=True, exist_ok=True)
        atomic_write_text(_file(run), word)
    else:
        os.environ[TOLD] = word


def told(run: Path, *, every: float = 0.5) -> str:
    """What rank 0 decided; waits for it as long as it takes (SLURM ends all tasks when one fails).

    Args:
        run: the run folder.
        every: seconds between two looks.

    Raises:
        SlurmError: nothing could tell this process.
    """
    if by_srun():  # whose environment may be that of a process which trained something else and then submitted this
        while not _file(run).exists():
            time.sleep(every)
        return _file(run).read_text(encoding="utf-8")
    if TOLD not in os.environ:
        raise SlurmError(
            "this process was started from outside (torchrun, mpirun) and cannot learn what rank 0 decides; "
            "use trainer.devices on one machine, or cluster=slurm"
        )
    return os.environ[TOLD]


def _file(run: Path) -> Path:
    return run / f".told-{os.environ['SLURM_JOB_ID']}-{restarts()}"


# A job that stands so will not run any more.
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")


def queue() -> dict[str, str]:
    """State of each of the user's jobs that SLURM knows, members of arrays one by one: {"12_0": "RUNNING"}.

    Jobs that have ended are known for some minutes.

    Raises:
        SlurmError: SLURM does not answer.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", f"--user={getpass.getuser()}", "--format=%i %T"]
    lines = _ask(command).splitlines()
    return {job: state for job, state in (line.split() for line in lines)}


def cancel(ids: Sequence[str]) -> None:
    """Cancels jobs; those that have ended stay as they are.

    Raises:
        SlurmError: SLURM does not answer.
    """
    if ids:
        _ask(["scancel", *ids])


def _ask(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        raise SlurmError(f"no {command[0]} here; this is done on a machine of the cluster")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SlurmError(f"{command[0]} says: {done.stderr.strip()}")
    return done.stdout
