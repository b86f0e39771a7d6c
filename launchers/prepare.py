"""python -m launchers.prepare task=<name> [key=value ...]: make a data set, a cache or a base model."""

from omegaconf import DictConfig

from launchers.command import run, run_task


def main(cfg: DictConfig) -> None:
    """Runs the task."""
    run_task(cfg)


if __name__ == "__main__":
    run(main, config_name="prepare")
