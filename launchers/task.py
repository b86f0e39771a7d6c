"""What a task of a SLURM job calls.

SLURM may warn a job at any time, and until submitit has its handler in place the warning is not heard. It gets there
after reading what this module defines, so the module loads nothing; the rest is imported when the task runs.
"""

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """What submitit keeps in a file: a command line as plain text, and nothing of the session that submits it."""

    command: str  # module, such as launchers.train
    config_name: str
    arguments: tuple[str, ...]
    folder: str  # of the run
    revision: str | None  # of the code when it was submitted
    changes: str | None

    def __call__(self) -> None:
        """Runs the command as if it had been typed here; what goes wrong ends the task with a status that is not 0."""
        from common.config import ROOT
        from common.files import atomic_write_text
        from common.jobs import Code, refuse_other_code
        from common.slurm import JOB
        from launchers.command import run

        refuse_other_code(Code(self.revision, self.changes), ROOT)
        os.environ[JOB] = self.folder
        rank = int(os.environ["SLURM_PROCID"])
        quiet = [f"hydra.job.name={self.command.rpartition('.')[2]}_rank_{rank}", "hydra.output_subdir=null"]
        sys.argv = [self.command, *self.arguments, *(quiet if rank else [])]
        run(importlib.import_module(self.command).main, config_name=self.config_name)
        if rank == 0:
            atomic_write_text(Path(completed(self.folder, _own_id())), "COMPLETED\n")

    def checkpoint(self) -> Any:
        """What submitit keeps for the next start: the same; the run folder knows where to go on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def completed(folder: str, id: str) -> str:
    """The file that says that a job has ended well, when SLURM has forgotten it."""
    return os.path.join(folder, f".completed-{id}")


def _own_id() -> str:
    array, member = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{member}" if array else os.environ["SLURM_JOB_ID"]
