"""hydra accepts launchers from packages of this name alone; what they do is in `launchers/`."""

from launchers import array, processes


class Processes(processes.ProcessLauncher):
    """cluster=local."""


class Slurm(array.SlurmLauncher):
    """cluster=slurm."""
