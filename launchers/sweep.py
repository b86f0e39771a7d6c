"""python -m launchers.sweep [status|cancel] [folder]: how the jobs of a sweep stand, best first; or no more of them."""

import argparse
import sys
from pathlib import Path

from common.jobs import JobError, read_jobs, sweep_folder, write_jobs
from common.slurm import ENDED, SlurmError, cancel, queue
from launchers.array import standing
from launchers.jobs import report


def main(words: list[str]) -> None:
    """Shows the table of a sweep, after cancelling its jobs if that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m launchers.sweep", description="The jobs of a sweep.")
    parser.add_argument("action", nargs="?", choices=["status", "cancel"], default="status")
    parser.add_argument("folder", nargs="?", default="last", help="of the sweep; last (the newest) if not given")
    parser.add_argument("--outputs", default="outputs", help="where last looks for it")
    asked = parser.parse_args(words)
    try:
        show(sweep_folder(asked.folder, Path(asked.outputs)), stop=asked.action == "cancel")
    except (JobError, SlurmError) as error:
        sys.exit(f"error: {error}")


def show(sweep: Path, *, stop: bool) -> None:
    """The table; jobs of SLURM are asked for, those of this machine are as their sweep has recorded."""
    jobs = read_jobs(sweep)
    submitted = [job for job in jobs if job.id is not None]
    if stop:
        if not submitted:
            raise JobError(f"{sweep} runs on one machine; stop its sweep with Ctrl-C there")
        cancel([str(job.id) for job in submitted if job.state not in ENDED])
    if submitted:
        now = standing(jobs, queue())
        if now != jobs:
            write_jobs(sweep, now)
        jobs = now
    report(sweep, jobs)


if __name__ == "__main__":
    main(sys.argv[1:])
