"""cluster=local: each job of a sweep is a process of its own, one after the other or one for each card."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from omegaconf import DictConfig

from common.config import ROOT, ConfigError
from common.jobs import Job, JobError, refuse_other_code
from launchers.jobs import JobLauncher, recorded

log = logging.getLogger(__name__)
OUTPUT = "console.log"  # of a job that runs beside others
LOOK_EVERY_SECONDS = 0.2


@dataclass
class Running:
    """A process at work, and the place that it takes."""

    position: int
    place: int
    process: subprocess.Popen[bytes]


class ProcessLauncher(JobLauncher):
    """A job in the sweep's own process would leave memory, threads and ranks behind for the next one.

    With several devices Lightning starts the same command line again for each: here that of the job, not the sweep's.
    """

    def __init__(self, *, at_once: int) -> None:
        """
        Args:
            at_once: jobs at a time. With cards each has `trainer.devices` of them for itself.
        """
        if at_once < 1:
            raise ConfigError(f"hydra.launcher.at_once={at_once}: 1 or more")
        self.at_once = at_once
        self.cards_each: int | None = None

    def check_job(self, cfg: DictConfig) -> None:
        if "trainer" not in cfg or self.at_once == 1:
            return
        cards = cfg.trainer.devices if cfg.trainer.accelerator in ("gpu", "cuda") else None
        if cards is not None and cards * self.at_once > len(visible_cards()):
            raise ConfigError(
                f"hydra.launcher.at_once={self.at_once} jobs with trainer.devices={cards} need {cards * self.at_once} "
                f"cards, this machine has {len(visible_cards())}"
            )
        self.cards_each = cards

    def start(self, sweep: Path, earlier: Sequence[Job], batch: Sequence[Job]) -> list[Job]:
        """Runs the jobs to their ends; one that fails does not keep the others from running."""
        jobs = recorded(sweep, earlier, [replace(job, state="PENDING") for job in batch])
        waiting, running = list(range(len(jobs))), list[Running]()
        before = signal.signal(signal.SIGTERM, _leave)
        try:
            while waiting or running:
                while waiting and len(running) < self.at_once:
                    self._start_one(jobs, waiting.pop(0), running)
                    recorded(sweep, earlier, jobs)
                time.sleep(LOOK_EVERY_SECONDS)
                for each in [each for each in running if each.process.poll() is not None]:
                    running.remove(each)
                    jobs[each.position] = _ended(jobs[each.position], each.process.returncode)
                    recorded(sweep, earlier, jobs)
        finally:
            _stop(jobs, running)
            recorded(sweep, earlier, jobs)
            signal.signal(signal.SIGTERM, before)
        return jobs

    def _start_one(self, jobs: list[Job], position: int, running: list[Running]) -> None:
        job = jobs[position]
        try:
            refuse_other_code(job.code, ROOT)
        except JobError as error:  # those that run have loaded the code that they were meant for
            log.error("job %d: %s", job.number, error)
            jobs[position] = replace(job, state="REFUSED")
            return
        log.info("job %d: %s", job.number, " ".join(job.overrides))
        place = min({*range(self.at_once)} - {each.place for each in running})
        running.append(Running(position, place, self._process(job, place)))
        jobs[position] = replace(job, state="RUNNING")

    def _process(self, job: Job, place: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", job.command, *job.arguments()]
        if self.at_once == 1:
            return subprocess.Popen(command)
        environment = dict(os.environ)
        if self.cards_each is not None:
            mine = visible_cards()[place * self.cards_each : (place + 1) * self.cards_each]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        with open(Path(job.folder) / OUTPUT, "ab") as output:
            return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def visible_cards() -> list[str]:
    """Names of the cards that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


def _ended(job: Job, code: int) -> Job:
    state = "COMPLETED" if code == 0 else "FAILED"
    log.info("job %d: %s%s", job.number, state, "" if code == 0 else f" (exit status {code})")
    return replace(job, state=state)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _stop(jobs: list[Job], running: Sequence[Running]) -> None:
    """Asks what still runs to save and stop, and waits for it."""
    for each in running:
        each.process.terminate()
    for each in running:
        each.process.wait()
        jobs[each.position] = replace(jobs[each.position], state="STOPPED")
