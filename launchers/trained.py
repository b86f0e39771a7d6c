"""A trained module from a checkpoint, built by the configuration of its own run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from lightning import LightningModule, Trainer, seed_everything
from omegaconf import DictConfig

from common.checkpoint import load_file, load_trained, locate
from common.config import ConfigError, bind, build, plain
from common.ema import weights_of
from common.environment import set_timeout
from common.run import CONFIG, UNTRAINED, run_of
from common.slurm import refuse_other_tasks
from launchers.start import trainer_of


def checkpoint_of(cfg: DictConfig, ckpt: str | None) -> Path | None:
    """The checkpoint file that a value means; None for the untrained model."""
    if ckpt is None or ckpt == UNTRAINED:
        return None
    return locate(ckpt, Path(cfg.paths.outputs) / cfg.name)


def model_of(cfg: DictConfig, checkpoint: Path | None) -> Any:
    """The recipe of a model: that of the command line, or that of the run of a checkpoint.

    Args:
        cfg: composed. Keys that the command line sets (`model.sampling.steps=50`) replace those of the run.
        checkpoint: a file in a run folder, or None.
    """
    if checkpoint is None:
        return plain(cfg)["model"]
    node = yaml.safe_load((run_of(checkpoint) / CONFIG).read_text())["model"]
    for key in model_overrides():
        node = replaced(node, key.split(".")[1:], select(plain(cfg), key), key=key)
    return node


def trained_module(cfg: DictConfig, checkpoint: Path | None) -> LightningModule:
    """Builds the module and loads what its run trained; see `model_of`.

    Args:
        cfg: composed.
        checkpoint: a file in a run folder; None for untrained weights.
    """
    seed_everything(cfg.seed, verbose=False)  # untrained weights are those that training would start from
    node = model_of(cfg, checkpoint)
    bind(node, "model")
    module: LightningModule = build(node)
    module.configure_model()
    if checkpoint is not None:
        _, trained = weights_of(load_file(checkpoint), cfg.weights, source=str(checkpoint))
        load_trained(module, trained, source=str(checkpoint))
    return module


def model_overrides() -> list[str]:
    """Keys of the model that the command line sets, such as `model.sampling.steps`; none outside a command."""
    if not HydraConfig.initialized():
        return []
    words = [word.partition("=")[0].lstrip("+") for word in HydraConfig.get().overrides.task]
    return [key for key in words if key.startswith("model.")]


def select(tree: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    value: Any = tree
    for name in key.split("."):
        value = value[name]
    return value


def replaced(node: Any, path: Sequence[str], value: Any, *, key: str) -> Any:
    """A copy of a plain configuration with one value replaced.

    Raises:
        ConfigError: the configuration has no such key.
    """
    if not path:
        return value
    name, *rest = path
    if not isinstance(node, dict) or name not in node:
        raise ConfigError(f"the run of the checkpoint has no {key}; its config.yaml shows what it has")
    return {**node, name: replaced(node[name], rest, value, key=key)}


def tester(cfg: DictConfig) -> Trainer:
    """The trainer of the configuration for a pass without training: nothing is logged or saved."""
    refuse_other_tasks(cfg.trainer.devices, cfg.trainer.num_nodes)
    trainer = trainer_of(cfg, logger=False, callbacks=None)
    set_timeout(trainer.strategy)
    return trainer
