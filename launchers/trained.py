"""A trained module from a checkpoint, built by the configuration of its own run."""

from pathlib import Path

import yaml
from lightning import LightningModule, Trainer, seed_everything
from omegaconf import DictConfig

from common.checkpoint import load_file, load_trained, locate
from common.config import bind, build, plain
from common.ema import weights_of

UNTRAINED = "none"


def checkpoint_of(cfg: DictConfig, ckpt: str | None) -> Path | None:
    """The checkpoint file that a value means; None for the untrained model."""
    if ckpt is None or ckpt == UNTRAINED:
        return None
    return locate(ckpt, Path(cfg.paths.outputs) / cfg.name)


def trained_module(cfg: DictConfig, checkpoint: Path | None) -> LightningModule:
    """Builds the module and loads what its run trained.

    Args:
        cfg: names the model when there is no checkpoint.
        checkpoint: a file in a run folder, whose configuration then names the model; None for untrained weights.
    """
    seed_everything(cfg.seed, verbose=False)  # untrained weights are those that training would start from
    if checkpoint is None:
        node = plain(cfg)["model"]
    else:
        node = yaml.safe_load((checkpoint.parents[1] / "config.yaml").read_text())["model"]
    bind(node, "model")
    module: LightningModule = build(node)
    module.configure_model()
    if checkpoint is not None:
        _, trained = weights_of(load_file(checkpoint), cfg.weights, source=str(checkpoint))
        load_trained(module, trained, source=str(checkpoint))
    return module


def tester(cfg: DictConfig) -> Trainer:
    """The trainer of the configuration for a pass without training: nothing is logged or saved."""
    trainer: Trainer = build(cfg.trainer, logger=False, callbacks=None)
    return trainer
