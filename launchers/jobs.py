"""The jobs of a sweep: hydra's launchers for this machine and for SLURM.

Both start a job as the command line that would do it alone (`python -m launchers.train <its overrides>`, in the folder
of the sweep), and neither starts one before all of a batch compose and bind. hydra's callback for that moment
(`on_multirun_start`) turns exceptions into warnings, so the check is here.
"""

import logging
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write
from rich.console import Console

from common.checkpoint import locate
from common.config import ROOT, ConfigError, check
from common.files import write_jsonl
from common.jobs import Code, Job, JobError, as_rows, code_of, outcome, read_jobs, table, write_jobs
from common.run import UNTRAINED, run_of
from launchers.command import EXPECTED

log = logging.getLogger(__name__)
RESULTS = "results.jsonl"


class JobLauncher(Launcher):
    """What both launchers share."""

    context: HydraContext
    config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Starts a batch of jobs and returns what hydra wants to know of each."""
        sweep = Path(self.config.hydra.sweep.dir).absolute()
        code, command = code_of(ROOT), _module()
        batch = [
            self.planned(sweep, list(overrides), number, command=command, code=code)
            for number, overrides in enumerate(job_overrides, start=initial_job_idx)
        ]
        earlier = read_jobs(sweep)
        _refuse_shared_folders([*earlier, *batch])
        sweep.mkdir(parents=True, exist_ok=True)
        ended = self.start(sweep, earlier, batch)
        if any(job.state for job in ended):
            report(sweep)
        return [_returned(job) for job in ended]

    @abstractmethod
    def start(self, sweep: Path, earlier: Sequence[Job], batch: Sequence[Job]) -> list[Job]:
        """Starts jobs that have been checked, records them behind the earlier ones, and returns how they stand."""

    def check_job(self, cfg: DictConfig) -> None:
        """What else a launcher asks of a job."""

    def planned(self, sweep: Path, overrides: list[str], number: int, *, command: str, code: Code) -> Job:
        """Composes and binds one job.

        Raises:
            ConfigError: the job is wrong; it is named.
        """
        cfg = self.context.config_loader.load_sweep_config(self.config, overrides)
        before = HydraConfig.instance().cfg
        try:
            with open_dict(cfg):
                cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
            HydraConfig.instance().set_config(cfg)
            folder = sweep / str(cfg.hydra.sweep.subdir)
            with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
                cfg.hydra.runtime.output_dir = str(folder)
            HydraConfig.instance().set_config(cfg)
            asked = cfg.copy()
            with open_dict(asked):
                del asked["hydra"]
            self.check_job(asked)
            check(asked)
            overrides = _pinned(overrides, asked, command)
        except EXPECTED as error:
            raise ConfigError(f"job {number} ({' '.join(overrides)}): {error}; nothing was started") from error
        finally:
            HydraConfig.instance().cfg = before
        name = str(self.config.hydra.job.config_name)
        return Job(command, name, number, tuple(overrides), str(folder), code)


def _module() -> str:
    """The command that is running, as a module."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        raise JobError("a sweep is started as a module: python -m launchers.train -m ...")
    return spec.name


def _pinned(overrides: list[str], cfg: DictConfig, command: str) -> list[str]:
    """What `last` means now, and not when the job runs: other jobs will have written checkpoints by then."""
    for key in ("ckpt", "init"):
        if key not in cfg or cfg[key] in (None, UNTRAINED):
            continue
        found = locate(cfg[key], Path(cfg.paths.outputs) / cfg.name).absolute()
        meant = run_of(found) if key == "ckpt" and command.endswith(".train") else found
        overrides = [*(word for word in overrides if not word.startswith(f"{key}=")), f"{key}='{meant}'"]
    return overrides


def _refuse_shared_folders(jobs: Sequence[Job]) -> None:
    owners: dict[str, int] = {}
    for job in jobs:
        if job.folder in owners:
            raise ConfigError(
                f"jobs {owners[job.folder]} and {job.number} would both write into {job.folder}; with ckpt= a run goes "
                "on in its own folder, once; init= starts new ones from its weights"
            )
        owners[job.folder] = job.number


def report(sweep: Path, jobs: Sequence[Job] | None = None) -> None:
    """Prints the table of a sweep, best first, and keeps it as rows beside its jobs."""
    outcomes = [outcome(job) for job in (read_jobs(sweep) if jobs is None else jobs)]
    Console(width=None if sys.stdout.isatty() else 160).print(table(outcomes, title=str(sweep)))
    write_jsonl(sweep / RESULTS, as_rows(outcomes))


def _returned(job: Job) -> JobReturn:
    """What hydra's sweepers read: the objective of the last validation, or the failure."""
    returned = JobReturn(overrides=list(job.overrides), working_dir=job.folder, task_name=job.command)
    failed = job.state not in (None, "COMPLETED")
    returned.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
    where = f"job {job.number} is {job.state}; its logs are in {job.folder}"
    returned._return_value = JobError(where) if failed else outcome(job).last
    return returned


def recorded(sweep: Path, earlier: Sequence[Job], batch: Sequence[Job]) -> list[Job]:
    """Writes down how the jobs of a batch stand, behind those of earlier batches."""
    write_jobs(sweep, [*earlier, *batch])
    return list(batch)
