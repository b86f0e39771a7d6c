"""hydra accepts launchers and sweepers from packages of this name alone; what they do is in `launchers/`."""

from launchers import array, processes, search


class Processes(processes.ProcessLauncher):
    """cluster=local."""


class Slurm(array.SlurmLauncher):
    """cluster=slurm."""


class Optuna(search.OptunaSweeper):
    """hydra/sweeper=optuna."""
