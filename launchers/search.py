"""hydra/sweeper=optuna: a search that chooses the settings of the next jobs by the objective of those before."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from common.config import ConfigError
from common.files import atomic_write_text

log = logging.getLogger(__name__)
BEST = "best.json"


class OptunaSweeper(Sweeper):
    """Asks Optuna for settings, runs them as a batch of jobs, and tells it what the batch came to."""

    context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(self, *, trials: int, at_once: int, seed: int, storage: str | None, params: Mapping[str, str]) -> None:
        """
        Args:
            trials: jobs in all.
            at_once: jobs of a batch; what they come to is known when all have ended.
            seed: of the choices.
            storage: URL of a data base in which the search is kept and goes on, such as sqlite:///search.db; memory if
                null.
            params: what is searched, in hydra's words: choice(1, 2), range(1, 9), tag(log, interval(1e-5, 1e-3)). Keys
                of the command line win.
        """
        if min(trials, at_once) < 1:
            raise ConfigError(f"hydra.sweeper.trials={trials}, hydra.sweeper.at_once={at_once}: 1 or more of each")
        self.trials, self.at_once, self.seed, self.storage = trials, at_once, seed, storage
        self.params = dict(params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the search and writes the best settings into the folder of the sweep."""
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise ConfigError("hydra/sweeper=optuna needs Optuna: pip install -e '.[optuna]'") from error
        if OmegaConf.select(self.config, "slurm.detach"):
            raise ConfigError("a search reads what each job comes to before the next, so slurm.detach=true cannot be")
        words = {word.partition("=")[0].lstrip("+"): word for word in self._words(arguments)}
        parsed = OverridesParser.create(config_loader=self.context.config_loader).parse_overrides([*words.values()])
        fixed = [str(each.input_line) for each in parsed if not each.is_sweep_override()]
        space = dict(map(searched, (each for each in parsed if each.is_sweep_override())))
        if not space:
            raise ConfigError("nothing is searched; give a key choice(...), range(...) or interval(...)")
        sweep = Path(self.config.hydra.sweep.dir)
        study = optuna.create_study(
            storage=self.storage,
            study_name=str(self.config.name) if self.storage else None,
            load_if_exists=True,
            direction="minimize" if self.config.direction == "min" else "maximize",
            sampler=optuna.samplers.TPESampler(seed=self.seed),
        )
        for first in range(0, self.trials, self.at_once):
            trials = [study.ask(space) for _ in range(min(self.at_once, self.trials - first))]
            jobs = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
            for trial, returned in zip(trials, self.launcher.launch(jobs, initial_job_idx=first), strict=True):
                value = value_of(returned)
                state = optuna.trial.TrialState.FAIL if value is None else None
                study.tell(trial, value, state=state)
        self._keep(sweep, study)

    def _words(self, arguments: Sequence[str]) -> list[str]:
        return [*(f"{key}={value}" for key, value in self.params.items()), *arguments]

    def _keep(self, sweep: Path, study: Any) -> None:
        if not [trial for trial in study.trials if trial.value is not None]:
            raise ConfigError(f"no job of the search has an objective; their logs are in {sweep}")
        best = {"objective": self.config.objective, "value": study.best_value, "settings": study.best_params}
        atomic_write_text(sweep / BEST, json.dumps(best, indent=2) + "\n")
        log.info("best: %s = %.6g with %s", self.config.objective, study.best_value, study.best_params)


def value_of(returned: JobReturn) -> float | None:
    """The objective that a job came to; None of one that failed."""
    if returned.status != JobStatus.COMPLETED:
        log.warning("%s", returned._return_value)
        return None
    return None if returned.return_value is None else float(returned.return_value)


def searched(override: Override) -> tuple[str, Any]:
    """A key and what Optuna draws its value from.

    Raises:
        ConfigError: nothing can be drawn from it.
    """
    key = str(override.get_key_element())
    try:
        return key, distribution(override)
    except ValueError as error:
        raise ConfigError(f"{override.input_line}: {error}") from error


def distribution(override: Override) -> Any:
    """What Optuna draws a value from, of an override in hydra's words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high, log_scale = value.start, value.end, "log" in value.tags
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log_scale)
        return FloatDistribution(float(low or 0), float(high or 0), log=log_scale)
    if isinstance(value, RangeSweep) and not value.shuffle:
        start, stop, step = value.start, value.stop, value.step
        if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
            return IntDistribution(start, start + (stop - 1 - start) // step * step, step=step)
    choices: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
    return CategoricalDistribution(choices)
