"""How a run begins: what concerns all of its processes is decided once, by rank 0, and the others are told."""

from pathlib import Path

import yaml
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from common.checkpoint import FOLDER, locate, newest_good
from common.config import build, plain
from common.run import UNTRAINED, read_starts, refuse_changes, refuse_idle
from common.slurm import by_srun, refuse_other_tasks, restarts, tell, told
from launchers.command import prepare


def is_first() -> bool:
    """Whether this process decides for all: rank 0, known before any process group is."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def decide(cfg: DictConfig) -> Path | None:
    """Prepares the data and returns the checkpoint to go on from, on rank 0; waits for both on the others.

    Raises:
        SlurmError: the job has another number of tasks than the run.
        ValueError: the run would be another experiment, or SLURM starts it again and again without getting on.
    """
    refuse_other_tasks(cfg.trainer.devices, cfg.trainer.num_nodes)
    folder = Path(cfg.paths.run)
    if not is_first():
        word = told(folder)
        return Path(word) if word else None
    ckpt = resumed(cfg)
    if ckpt is not None:
        refuse_changes(yaml.safe_load((folder / "config.yaml").read_text()), plain(cfg))
    if restarts():
        refuse_idle(read_starts(folder), ckpt, limit=cfg.slurm.idle_starts)
    prepare(cfg.prepare, paths=cfg.paths)
    tell(folder, "" if ckpt is None else str(ckpt))
    return ckpt


def resumed(cfg: DictConfig) -> Path | None:
    """The checkpoint to go on from: the newest of this run if SLURM starts it again, or else what `ckpt` names."""
    checkpoints = Path(cfg.paths.run) / FOLDER
    own = newest_good(checkpoints) if restarts() and checkpoints.is_dir() else None
    if own is not None or cfg.ckpt in (None, UNTRAINED):
        return own
    return locate(cfg.ckpt, Path(cfg.paths.outputs) / cfg.name)


def trainer_of(cfg: DictConfig, **more: object) -> Trainer:
    """The trainer of a configuration; in a SLURM job its processes are the tasks, and Lightning requeues nothing."""
    if by_srun():
        more["plugins"] = SLURMEnvironment(auto_requeue=False)
    trainer: Trainer = build(cfg.trainer, **more)
    return trainer
