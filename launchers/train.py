"""python -m launchers.train [experiment=<name>] [hardware=<name>] [key=value ...]: train, or go on with ckpt=last."""

import warnings
from pathlib import Path

from lightning import LightningModule, Trainer, seed_everything
from omegaconf import DictConfig

from common.callbacks.checkpointing import Checkpointing
from common.callbacks.fence import Fence
from common.checkpoint import load_file, load_trained, locate
from common.config import ROOT, build
from common.environment import set_timeout
from common.run import begin
from launchers.command import as_yaml, run
from launchers.machine import ready
from launchers.start import decide, is_first, trainer_of

# Untrue here: frozen towers belong in eval mode, and the order of the data resumes by itself.
warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training")
warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")


def main(cfg: DictConfig) -> float | None:
    """Trains and returns the objective of the last validation."""
    ready(cfg)
    folder = Path(cfg.paths.run)
    ckpt = decide(cfg)
    seed_everything(cfg.seed, verbose=False)
    data, module = build(cfg.data), build(cfg.model)
    trainer = trainer_of(cfg, max_steps=data.num_steps())
    set_timeout(trainer.strategy)
    if is_first():
        start = begin(folder, config=as_yaml(cfg), resumed_from=ckpt, root=ROOT)
        fence(trainer, start.generation)
    if cfg.init is not None and ckpt is None:
        initialise(module, locate(cfg.init, Path(cfg.paths.outputs) / cfg.name))
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
    value = trainer.callback_metrics.get(cfg.objective)
    return None if value is None else float(value)


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
