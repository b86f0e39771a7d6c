"""Configuration: the root schema, the resolvers, and the checks that run before anything is built.

The only file outside `launchers/` that knows hydra and omegaconf. Two cheap layers stand between a typo and an hour
of training: the schema (unknown top-level keys, wrong scalar types) and `bind` (every `_target_` is imported and its
arguments are bound to its signature, recursively).
"""

import difflib
import functools
import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from common.run import job_folder, run_folder

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"

# What a configuration may name. Checked on the name and again on the module that defines the resolved object, so that
# an alias such as `common.files.os.system` does not pass.
ALLOWED_TARGETS = ("common", "projects", "lightning", "torch.optim", "torch.nn", "torchmetrics", "diffusers.schedulers")

# Keys of a node that are for hydra; `_recursive_: false` hands its parts to the target as they are written.
HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_")

SEEDS = 1 << 32  # that numpy has
SECRET = re.compile(r"hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|\b[0-9a-f]{40}\b")


class ConfigError(ValueError):
    """The configuration is wrong; the message names the key and the remedy."""


@dataclass
class RunSchema:
    """Root keys of train, evaluate, generate and export. Anything else at the root is refused."""

    name: str = MISSING  # family of runs; names the output folder
    seed: int = 0
    hw: str = MISSING  # memory class of the machine, set by the hardware file
    steps: int | None = None  # optimizer steps; give this or epochs
    epochs: float | None = None
    validate_every: int = MISSING  # optimizer steps between validations
    objective: str = "val/loss"  # what a sweep reads, and what `ckpt=best` is best at
    direction: str = "min"
    ckpt: str | None = None  # last, best, a run folder or a file: resume (train) or load (the others)
    init: str | None = None  # the same, but only its weights: the start of a new run
    weights: str = "auto"  # of a checkpoint that is used: averaged, raw, or auto for averaged where there are such
    prepare: list[Any] = field(default_factory=list)  # preparation tasks that this needs, as override lists
    batch: Any = MISSING
    paths: Any = MISSING
    model: Any = MISSING
    data: Any = MISSING
    video: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = MISSING
    trainer: Any = MISSING
    request: Any = MISSING  # what `generate` is asked for
    compare: Any = MISSING  # further rows of `evaluate`: {row name: ckpt}
    memory: Any = MISSING  # where the table of `memory` is written
    export: Any = MISSING  # what `export` writes, and whether it goes to the Hub
    slurm: Any = MISSING  # what a job asks a SLURM cluster for
    benchmark: Any = MISSING  # how `benchmark` measures, and what it compares with
    environment: dict[str, Any] = field(default_factory=dict)  # variables that the machine needs, of the hardware file


@dataclass
class PrepareSchema:
    """Root keys of prepare."""

    seed: int = 0
    task: Any = MISSING
    paths: Any = MISSING
    video: Any = MISSING
    slurm: Any = MISSING


def register() -> None:
    """Puts the schemas and the resolvers where hydra finds them. May be called again."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunSchema)
    store.store(name="prepare_schema", node=PrepareSchema)
    resolvers: dict[str, Callable[..., Any]] = {
        "accumulate": accumulate,
        "multiply": lambda a, b: a * b,
        "plus": lambda a, b: a + b,
        "equal": lambda a, b: a == b,
        "run_folder": run_folder,
        "job_folder": job_folder,
        "cards": lambda accelerator, devices: devices if accelerator in ("gpu", "cuda") else 0,
        "basename": lambda path: Path(path).name,
        "cores": lambda: os.cpu_count() or 1,
    }
    for name, function in resolvers.items():
        OmegaConf.register_new_resolver(name, function, replace=True, use_cache=name == "run_folder")


def accumulate(global_batch: int, micro: int, devices: int, num_nodes: int) -> int:
    """Micro-batches a device runs for one optimizer step.

    Raises:
        ConfigError: a number is not positive, or the global batch is not a multiple of micro x devices x nodes.
    """
    keys = ("batch.global", "batch.micro", "trainer.devices", "trainer.num_nodes")
    for key, value in zip(keys, (global_batch, micro, devices, num_nodes), strict=True):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{key}={value}: a whole number of 1 or more")
    parallel = micro * devices * num_nodes
    if global_batch % parallel:
        raise ConfigError(
            f"batch.global={global_batch} is not a multiple of batch.micro={micro} x trainer.devices={devices} x "
            f"trainer.num_nodes={num_nodes} = {parallel}; choose batch.micro so that it divides"
        )
    return global_batch // parallel


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The composed configuration with every interpolation resolved, as plain containers."""
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def check(cfg: DictConfig) -> None:
    """Everything that can be known to be wrong without building anything.

    Raises:
        ConfigError: a missing value, a value that looks like a token, settings of a callback or logger that is not
            chosen, a `_target_` outside the allow-list, an argument that its target does not take or misses, a seed
            that numpy does not take.
    """
    tree = plain(cfg)
    if not 0 <= tree.get("seed", 0) < SEEDS:
        raise ConfigError(f"seed={tree['seed']}: 0 to {SEEDS - 1}")
    refuse_secrets(tree)
    refuse_loose_settings(tree)
    bind(tree)


def refuse_loose_settings(tree: Mapping[str, Any]) -> None:
    """Raises ConfigError where a callback or a logger has settings, of the experiment for one, but is not chosen."""
    for group in ("callbacks", "logger"):
        for name, node in (tree.get(group) or {}).items():
            if not isinstance(node, Mapping) or "_target_" not in node:
                raise ConfigError(
                    f"{group}.{name} is no {group.removesuffix('s')}: {group}= does not choose it, or it was emptied; "
                    f"~{group}.{name} leaves it out"
                )


def refuse_secrets(node: Any, key: str = "") -> None:
    """Raises ConfigError where a value looks like a token. The value itself is never shown."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            refuse_secrets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for position, value in enumerate(node):
            refuse_secrets(value, f"{key}[{position}]")
    elif isinstance(node, str) and SECRET.search(node):
        raise ConfigError(
            f"{key} looks like a secret; tokens come from the environment, `wandb login` or `hf auth login`, "
            "never from the configuration"
        )


def bind(node: Any, key: str = "") -> int:
    """Binds the arguments of every `_target_` below `node` to its signature.

    Returns:
        How many targets were bound.

    Raises:
        ConfigError: names the key, the target and the nearest argument that exists.
    """
    if isinstance(node, list):
        return sum(bind(value, f"{key}[{position}]") for position, value in enumerate(node))
    if not isinstance(node, dict):
        return 0
    bound = sum(bind(value, f"{key}.{name}" if key else name) for name, value in node.items())
    if "_target_" not in node:
        return bound
    target = resolve_target(node["_target_"], key)
    arguments = {name: value for name, value in node.items() if name not in HYDRA_KEYS}
    _bind_one(target, arguments, key=key, partial=bool(node.get("_partial_", False)))
    return bound + 1


def _bind_one(target: Any, arguments: dict[str, Any], *, key: str, partial: bool) -> None:
    signature = inspect.signature(target)
    try:
        signature.bind_partial(**arguments) if partial else signature.bind(**arguments)
    except TypeError as error:
        unknown = [name for name in arguments if name not in signature.parameters]
        hints = "".join(f"; {key}.{name}: {suggest(name, signature.parameters)}" for name in unknown)
        raise ConfigError(f"{key}: {_name(target)} {error}{hints}") from error


@functools.cache
def resolve_target(name: str, key: str = "") -> Any:
    """Imports what a `_target_` names, if a configuration may name it.

    Raises:
        ConfigError: the name, or the module that defines the object behind it, is outside the allow-list; or there
            is no such object.
    """
    if not _allowed(name):
        raise ConfigError(f"{key}: _target_ {name} is not one of {', '.join(ALLOWED_TARGETS)}")
    target = _import(name, key)
    home = str(getattr(target, "__module__", None) or type(target).__module__)
    if not _allowed(home) or inspect.ismodule(target):
        raise ConfigError(f"{key}: _target_ {name} is an alias of something in {home}, which may not be named")
    return target


def _import(name: str, key: str) -> Any:
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:split])
        try:
            target: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
                continue
            raise
        for part in parts[split:]:
            if not hasattr(target, part):
                raise ConfigError(f"{key}: {module_name} has no {part}; {suggest(part, dir(target))}")
            target = getattr(target, part)
        return target
    raise ConfigError(f"{key}: no module for _target_ {name}")


def _allowed(name: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in ALLOWED_TARGETS)


def _name(target: Any) -> str:
    return getattr(target, "__qualname__", repr(target))


def suggest(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """'did you mean ...' with the nearest names, or the list of what there is."""
    names = [str(name) for name in known if not str(name).startswith("_")]
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(sorted(names))}"


def build(node: Any, **overrides: Any) -> Any:
    """Instantiates a bound node; plain containers reach the constructors, never configuration objects.

    Args:
        node: a part of the configuration, composed or plain.
        **overrides: arguments that only the running program knows.
    """
    tree: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    return instantiate({**tree, **overrides}, _convert_="all")


def config_keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a configuration, without resolving anything."""
    for name in map(str, cfg):
        key = f"{prefix}{name}"
        yield key
        child = cfg._get_node(name)
        if isinstance(child, DictConfig) and not child._is_interpolation() and not child._is_missing():
            yield from config_keys(child, f"{key}.")
