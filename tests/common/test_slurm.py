"""What a task knows of its job; the real thing is in tests/slurm."""

import subprocess
import sys
from pathlib import Path

import pytest

from common import slurm
from common.config import ROOT
from common.slurm import SlurmError, being_preempted, by_srun, refuse_other_tasks, restarts, tell, told

TASK = {"SLURM_NTASKS": "4", "SLURM_PROCID": "1", "SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "tiny"}


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a task of SLURM."""
    for name in ("FRAMELAB_JOB", "FRAMELAB_TOLD", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_terminal_of_a_job_is_no_task_of_it() -> None:
    assert by_srun(TASK)
    assert not by_srun({**TASK, "SLURM_JOB_NAME": "interactive"})
    assert not by_srun({"SLURM_NTASKS": "4"})


def test_tasks_and_devices_are_compared(task: pytest.MonkeyPatch) -> None:
    with pytest.raises(SlurmError, match=r"has 4 tasks .* trainer.devices=8 x trainer.num_nodes=1 = 8"):
        refuse_other_tasks(8, 1)
    with pytest.raises(SlurmError, match="do not know one run folder"):
        refuse_other_tasks(2, 2)
    task.setenv("FRAMELAB_JOB", "run")
    refuse_other_tasks(2, 2)
    task.delenv("SLURM_NTASKS")
    refuse_other_tasks(8, 1)  # on one machine Lightning starts them


def test_what_rank_0_tells_belongs_to_one_start(task: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tell(tmp_path, "step 3")
    assert told(tmp_path) == "step 3"
    task.setenv("SLURM_RESTART_COUNT", "1")
    assert restarts() == 1
    task.setattr(slurm.time, "sleep", lambda seconds: tell(tmp_path, "step 7"))
    assert told(tmp_path) == "step 7"


def test_what_the_submitting_process_was_told_does_not_count(task: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SLURM hands its environment on, and there a run without a checkpoint may have been."""
    tell(tmp_path, "step 3")
    task.setenv("FRAMELAB_TOLD", "")
    assert told(tmp_path) == "step 3"


def test_a_process_that_nobody_can_tell_is_refused(task: pytest.MonkeyPatch, tmp_path: Path) -> None:
    task.delenv("SLURM_PROCID")
    with pytest.raises(SlurmError, match="torchrun"):
        told(tmp_path)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("JobState=RUNNING StartTime=2026-01-01T10:00:00 PreemptTime=2026-01-01T11:00:00", True),
        ("JobState=RUNNING StartTime=2026-01-01T10:00:00 PreemptTime=None", False),
        ("JobState=COMPLETING StartTime=2026-01-01T10:00:00 PreemptTime=2026-01-01T11:00:00", False),  # cancelled
        ("JobState=RUNNING StartTime=2026-01-01T12:00:00 PreemptTime=2026-01-01T11:00:00", False),  # an earlier life
    ],
)
def test_making_room_is_told_from_being_cancelled(task: pytest.MonkeyPatch, shown: str, expected: bool) -> None:
    task.setattr(slurm, "_ask", lambda command: f"JobId=12 {shown} Partition=spare\n")
    assert being_preempted() is expected


def test_what_submitit_reads_before_it_can_be_warned_loads_nothing() -> None:
    loaded = "import sys, launchers.task; print([name for name in ('torch', 'hydra', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
