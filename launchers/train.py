"""python -m launchers.train [experiment=<name>] [hardware=<name>] [key=value ...]: train, or go on with ckpt=last."""

import os
import warnings
from pathlib import Path

import yaml
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from common.callbacks.checkpointing import Checkpointing
from common.callbacks.fence import Fence
from common.checkpoint import load_file, load_trained, locate
from common.config import ROOT, build, plain
from common.environment import set_timeout
from common.run import begin, refuse_changes
from launchers.command import as_yaml, prepare, run
from launchers.machine import ready

TOLD = "FRAMELAB_CKPT"  # the checkpoint that rank 0 chose, for the processes it starts

# Untrue here: frozen towers belong in eval mode, and the order of the data resumes by itself.
warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training")
warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")


def main(cfg: DictConfig) -> float | None:
    """Trains and returns the objective of the last validation."""
    ready(cfg)
    folder = Path(cfg.paths.run)
    ckpt = resumed(cfg)
    if ckpt is not None:
        refuse_changes(yaml.safe_load((folder / "config.yaml").read_text()), plain(cfg))
    prepare(cfg.prepare, paths=cfg.paths)
    seed_everything(cfg.seed, verbose=False)
    data, module = build(cfg.data), build(cfg.model)
    trainer = build(cfg.trainer, max_steps=data.num_steps())
    set_timeout(trainer.strategy)
    if is_first():
        start = begin(folder, config=as_yaml(cfg), resumed_from=ckpt, root=ROOT)
        fence(trainer, start.generation)
    if cfg.init is not None and ckpt is None:
        initialise(module, locate(cfg.init, Path(cfg.paths.outputs) / cfg.name))
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
    value = trainer.callback_metrics.get(cfg.objective)
    return None if value is None else float(value)


def is_first() -> bool:
    """Whether this process decides for all: rank 0, known before any process group is."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def resumed(cfg: DictConfig) -> Path | None:
    """The checkpoint to go on from, decided by rank 0 alone."""
    if cfg.ckpt is None:
        return None
    if is_first():
        os.environ[TOLD] = str(locate(cfg.ckpt, Path(cfg.paths.outputs) / cfg.name))
    return Path(os.environ[TOLD])


def fence(trainer: Trainer, generation: int) -> None:
    """Lets the callbacks that stop an older copy of a run know which start this is."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Checkpointing | Fence):
            callback.generation = generation


def initialise(module: LightningModule, ckpt: Path) -> None:
    """Starts from the trained weights of another run."""
    module.configure_model()
    load_trained(module, load_file(ckpt)["state_dict"], source=str(ckpt))


if __name__ == "__main__":
    run(main, config_name="config")
