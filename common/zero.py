"""DeepSpeed ZeRO for every method: its configuration with each "auto" taken from the run, and our checkpoints.

The configuration is the document that DeepSpeed's users know. Lightning fills none of its "auto" values and refuses
some of its keys, so both are done here. The optimizer and the schedule are always the run's own objects; their sections
in the document are there to be shown.
"""

import importlib.util
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from common.checkpoint import load_file, load_trained
from common.config import ConfigError

log = logging.getLogger(__name__)
AUTO = "auto"
GIVEN_AS_OBJECTS = ("optimizer", "scheduler")
SET_BY_LIGHTNING = ("gradient_accumulation_steps",)  # from the trainer, and refused in the document


def resolve(document: Mapping[str, Any], values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A copy of a DeepSpeed configuration with every "auto" replaced.

    Args:
        document: nested configuration.
        values: of the run, by dotted key.
        prefix: of the keys of `document`.

    Raises:
        ConfigError: the run has no value for an "auto".
    """
    resolved: dict[str, Any] = {}
    for name, value in document.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            resolved[name] = resolve(value, values, f"{key}.")
        elif value != AUTO:
            resolved[name] = value
        elif key in values:
            resolved[name] = values[key]
        else:
            raise ConfigError(
                f"trainer.strategy.config.{key}=auto: a run has no value for it; write one. "
                f"auto is known for {', '.join(sorted(values))}"
            )
    return resolved


def run_values(trainer: Trainer) -> dict[str, Any]:
    """What a run says about batches, clipping and precision, by the keys of a DeepSpeed configuration."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return {
        "train_batch_size": data.global_batch,
        "train_micro_batch_size_per_gpu": data.micro_batch,
        "gradient_accumulation_steps": trainer.accumulate_grad_batches,
        "gradient_clipping": float(trainer.gradient_clip_val or 0.0),
        "bf16.enabled": str(trainer.precision).startswith("bf16"),
        "torch_autocast.enabled": trainer.precision == "bf16-mixed",
    }


def optimizer_values(optimizer: Optimizer) -> dict[str, Any]:
    """Type and settings of an optimizer, the learning rate before its schedule."""
    groups = optimizer.param_groups
    rates = [group.get("initial_lr", group["lr"]) for group in groups]
    settings = {key: [group.get(key) for group in groups] for key in ("betas", "eps", "weight_decay")}
    shown = {f"optimizer.params.{key}": _by_group(groups, each) for key, each in {"lr": rates, **settings}.items()}
    return {"optimizer.type": type(optimizer).__name__, **shown}


def schedule_values(schedule: LambdaLR, *, steps: int) -> dict[str, Any]:
    """A schedule as DeepSpeed describes one: its name, the ends of its warm-up, and the steps of the run."""
    groups = schedule.optimizer.param_groups
    factors = [schedule.lr_lambdas[0](step) for step in range(steps + 1)]
    ends = {"warmup_min_lr": factors[0], "warmup_max_lr": max(factors)}
    return {
        "scheduler.type": schedule.lr_lambdas[0].__qualname__.partition(".")[0],
        **{
            f"scheduler.params.{key}": _by_group(groups, [rate * factor for rate in schedule.base_lrs])
            for key, factor in ends.items()
        },
        "scheduler.params.warmup_num_steps": factors.index(max(factors)),
        "scheduler.params.total_num_steps": steps,
    }


def _by_group(groups: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> Any:
    """One value where all groups have it, otherwise that of each group by its name."""
    if all(value == values[0] for value in values):
        return values[0]
    return {
        str(group.get("name", number)): value for number, (group, value) in enumerate(zip(groups, values, strict=True))
    }


class ZeroPrecision(DeepSpeedPrecision):
    """DeepSpeed's precision, with autocast in mixed precision, a batch left as it is and the loss divided once."""

    def __init__(self, precision: Any, *, device: str) -> None:
        super().__init__(precision)
        self.device = device

    def forward_context(self) -> AbstractContextManager[Any]:
        """What a validation does beside its steps is under autocast too; DeepSpeed sees to the steps itself."""
        if self.precision == "bf16-mixed":
            return torch.autocast(self.device, torch.bfloat16)
        return super().forward_context()

    def convert_input(self, data: Any) -> Any:
        """Counts and masks of a batch are not rounded to bfloat16; the models convert what they multiply."""
        return data

    def backward(self, tensor: Tensor, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Lightning has divided the loss by the micro-batches of a step already, and DeepSpeed would do it again."""
        super().backward(tensor, model, optimizer, *args, scale_wrt_gas=False, **kwargs)


class Zero(DeepSpeedStrategy):
    """ZeRO stage 1 or 2, with the checkpoints of a single process.

    A checkpoint is one file with float32 tensors of what trains and the optimizer's state by position, as every other
    strategy here writes it; a run may go on with or without DeepSpeed.
    """

    def __init__(self, *, config: dict[str, Any]) -> None:
        """
        Args:
            config: DeepSpeed's configuration; "auto" is filled from the run.

        Raises:
            ConfigError: DeepSpeed is not installed, or the stage splits the weights.
        """
        if importlib.util.find_spec("deepspeed") is None:
            raise ConfigError(
                "trainer.strategy needs DeepSpeed: pip install -e '.[deepspeed]', or take hardware=a100x8_fsdp, which "
                "splits more and needs nothing"
            )
        if config["zero_optimization"]["stage"] not in (1, 2):
            raise ConfigError(
                f"trainer.strategy.config.zero_optimization.stage={config['zero_optimization']['stage']}: 1 or 2; "
                "what stage 3 splits, hardware=a100x8_fsdp splits"
            )
        super().__init__(config={}, logging_level=logging.WARNING)
        self.document = config

    # Processes

    def setup_environment(self) -> None:
        self.precision_plugin = ZeroPrecision(self.precision_plugin.precision, device=self.root_device.type)
        DDPStrategy.setup_environment(self)  # Lightning's own takes CUDA alone; gloo does as well

    def setup_distributed(self) -> None:
        if self.root_device.type == "cuda":
            super().setup_distributed()
            return
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled first; gloo is enough
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        device = super().root_device
        return torch.device("cpu", 0) if device.type == "cpu" else device  # DeepSpeed asks for a number

    def _setup_model_and_optimizer(self, model: Module, *args: Any, **kwargs: Any) -> Any:
        with sendable(model.parameters()):
            return super()._setup_model_and_optimizer(model, *args, **kwargs)

    # Configuration

    def _format_config(self) -> None:
        assert self.lightning_module is not None
        shown = {name: value for name, value in self.document.items() if name not in GIVEN_AS_OBJECTS}
        resolved = resolve(shown, run_values(self.lightning_module.trainer))
        self.config = {name: value for name, value in resolved.items() if name not in SET_BY_LIGHTNING}
        super()._format_config()

    def _init_optimizers(self) -> tuple[Optimizer, LRSchedulerConfig | None]:
        optimizer, schedule = super()._init_optimizers()
        assert self.lightning_module is not None
        trainer = self.lightning_module.trainer
        values = run_values(trainer) | optimizer_values(optimizer)
        if schedule is not None and isinstance(schedule.scheduler, LambdaLR):
            values |= schedule_values(schedule.scheduler, steps=trainer.max_steps)
        if self.is_global_zero:
            shown = resolve(self.document, values)
            log.info("DeepSpeed, every auto from the run:\n%s", json.dumps(shown, indent=2))
        return optimizer, schedule

    # Gradients

    def gradients(self) -> list[Tensor]:
        """This rank's part of a step's gradients, which DeepSpeed keeps from the backward pass to the step."""
        zero: Any = self.optimizers[0]
        kept = [each for group in zero.averaged_gradients.values() for each in group or ()]
        offloaded = [flat.grad for flat in zero.single_partition_of_fp32_groups]  # to the memory of the host
        return [each for each in [*kept, *offloaded] if each is not None]

    def gradient_of(self, parameter: Parameter) -> Tensor:
        """The whole gradient of one parameter, float32, put together from the parts of all ranks; called by each."""
        from deepspeed.utils import safe_get_full_grad

        gradient: Tensor = safe_get_full_grad(parameter)
        return gradient

    def step_follows(self) -> bool:
        """Whether this micro-batch is the last of a step: DeepSpeed counts them, and is told of each."""
        engine: Any = self.model
        return bool(engine.is_gradient_accumulation_boundary())

    # Checkpoints

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """float32 tensors of what trains, in the memory of rank 0; empty on the others. Called by every rank."""
        assert self.lightning_module is not None
        zero: Any = self.optimizers[0]
        masters = {}
        for members, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
            for parameter in members:
                master = _whole(parameter, flat)
                if self.is_global_zero:  # the others only help to gather
                    masters[id(parameter)] = master.cpu()
        if not self.is_global_zero:
            return {}
        trained = {name: each for name, each in self.lightning_module.named_parameters() if each.requires_grad}
        return {name: masters[id(each)] for name, each in trained.items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """`state_dict()` of the run's optimizer in a single process, on rank 0. Called by every rank."""
        zero: Any = self.optimizers[0]
        content: dict[str, Any] = {"state": {}, "param_groups": []}
        number = 0
        for members, flat, group in zip(
            zero.bit16_groups, zero.single_partition_of_fp32_groups, zero.optimizer.param_groups, strict=True
        ):
            settings = {name: value for name, value in group.items() if name != "params"}
            content["param_groups"].append({**settings, "params": list(range(number, number + len(members)))})
            for parameter in members:
                state = {
                    name: _whole(parameter, value) if value.ndim else value.clone()  # a group shares its step count
                    for name, value in zero.optimizer.state[flat].items()
                }
                if self.is_global_zero:
                    content["state"][number] = {name: value.cpu() for name, value in state.items()}
                number += 1
        return content if self.is_global_zero else {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """One file, by rank 0."""
        DDPStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """The content of the file, mapped into memory and not yet read."""
        return load_file(Path(self.broadcast(checkpoint_path)))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copies the trained tensors into the module, and each rank's part into its float32 masters."""
        from deepspeed.utils import safe_set_full_fp32_param

        assert self.lightning_module is not None
        load_trained(self.lightning_module, checkpoint["state_dict"], source="the checkpoint")
        own = dict(self.lightning_module.named_parameters())
        for name, value in checkpoint["state_dict"].items():
            safe_set_full_fp32_param(own[name], value)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Gives each rank its part of the optimizer's state."""
        zero: Any = self.optimizers[0]
        content = checkpoint["optimizer_states"][0]
        saved = [number for group in content["param_groups"] for number in group["params"]]
        states = iter(content["state"][number] for number in saved)
        for members, flat, group, settings in zip(
            zero.bit16_groups,
            zero.single_partition_of_fp32_groups,
            zero.optimizer.param_groups,
            content["param_groups"],
            strict=True,
        ):
            zero.optimizer.state[flat] = _flat_state(flat, {id(each): next(states) for each in members}, members)
            group.update({name: value for name, value in settings.items() if name != "params"})


@contextmanager
def sendable(parameters: Iterable[Parameter]) -> Iterator[None]:
    """A block in which every parameter can be viewed as bytes, which is how DeepSpeed sends it to the other ranks.

    That needs a dimension, and neighbours in the last one: a temperature has none, and `channels_last` puts channels
    side by side. Afterwards all have their shapes again, and what is frozen its order in memory; the others are parts
    of one long tensor by then.
    """
    changed = []
    for parameter in parameters:
        if parameter.ndim == 0 or parameter.stride(-1) != 1 or not parameter.is_contiguous():
            changed.append((parameter, parameter.shape, parameter.stride()))
            parameter.data = parameter.data.flatten().view(parameter.shape or 1)
    yield
    for parameter, shape, stride in changed:
        row = parameter.data.view(shape)
        parameter.data = row if parameter.requires_grad else row.new_empty_strided(shape, stride).copy_(row)


def _whole(parameter: Any, flat: Tensor) -> Tensor:
    """What all ranks together hold about a parameter in the long tensors of its group, float32, in its shape."""
    full = torch.zeros(parameter.numel(), dtype=flat.dtype, device=flat.device)
    part = parameter._hp_mapping
    if part is not None:
        there, here = part.lp_fragment_address, part.get_hp_fragment_address()
        full.narrow(0, there.start, there.numel).copy_(flat.detach().narrow(0, here.start, here.numel))
    torch.distributed.all_reduce(full)
    return full.view(parameter.shape)


def _flat_state(flat: Tensor, states: Mapping[int, Mapping[str, Tensor]], members: list[Any]) -> dict[str, Tensor]:
    """This rank's part of the state of a group, in the one long tensor that DeepSpeed keeps."""
    first = states[id(members[0])]
    state = {name: torch.zeros_like(flat) if value.ndim else value.clone() for name, value in first.items()}
    for member in members:
        part = member._hp_mapping
        if part is None:  # wholly another rank's
            continue
        there, here = part.lp_fragment_address, part.get_hp_fragment_address()
        for name, value in states[id(member)].items():
            if value.ndim:
                kept = value.flatten().narrow(0, there.start, there.numel)
                state[name].narrow(0, here.start, here.numel).copy_(kept)
    return state
