"""FSDP2 for every method: what trains and what is frozen is split over the ranks, one block at a time.

The LightningModule itself is the root unit and its steps count as forwards. So a step may call the parts of its model
in any order (embeddings, decoder, head, a projector between them): whatever the root owns is whole for the length of
the step, and each block is gathered when it is called.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from common.checkpoint import load_file, load_trained

STEPS = ("training_step", "validation_step", "test_step", "predict_step")

# What a block is gathered in. The products of bf16-mixed are in bfloat16 under autocast anyway; gathering in it halves
# the traffic and the memory of the block that is at work. Gradients are summed in float32, as DDP sums them.
POLICIES = {
    "32-true": MixedPrecisionPolicy(),
    "bf16-mixed": MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
    ),
}


def shard(module: LightningModule, *, units: Iterable[nn.Module]) -> None:
    """Splits a module's parameters over the ranks; the last thing that `configure_model` does.

    Without FSDP nothing happens, and what is split already stays as it is.

    Args:
        module: becomes the root unit, which owns whatever is in no other.
        units: modules that are gathered one at a time, when they are called: the blocks of each stack. One that shares
            a parameter with another part of the module (a tied head) stays with the root.

    Raises:
        ValueError: a precision that is not supported, packed weights, a single number that trains, or a unit that
            trains in two dtypes.
    """
    if module.device_mesh is None or isinstance(module, FSDPModule):
        return
    precision = str(module.trainer.precision)
    if precision not in POLICIES:
        raise ValueError(f"trainer.precision={precision} with FSDP; choose one of {', '.join(POLICIES)}")
    mesh = module.device_mesh["data_parallel"]
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()  # one with the channels last cannot be split
    owners = _owners(module)
    for unit in units:
        if all(owners[name] == count for name, count in _owners(unit).items()):
            _refuse_mixtures(unit.parameters(), type(unit).__name__)
            fully_shard(unit, mesh=mesh, mp_policy=POLICIES[precision], reshard_after_forward=True)
            unit.gathered_in = POLICIES[precision].param_dtype  # type: ignore[assignment]
    _refuse_mixtures((each for each in module.parameters() if not isinstance(each, DTensor)), "the root")
    fully_shard(module, mesh=mesh, reshard_after_forward=False, ignored_params=_scalars(module))
    for step in STEPS:
        register_fsdp_forward_method(module, step)


def needs_autocast(module: nn.Module) -> bool:
    """Whether blocks of a module are gathered in bfloat16, while the rest and what comes out of it is in float32."""
    return any(getattr(part, "gathered_in", None) is torch.bfloat16 for part in module.modules())


def _scalars(module: nn.Module) -> set[nn.Parameter]:
    """Frozen parameters of one number, such as the temperature of a CLIP: they cannot be split and stay whole."""
    found = {name: each for name, each in module.named_parameters() if each.ndim == 0}
    if trained := [name for name, each in found.items() if each.requires_grad]:
        raise ValueError(f"FSDP cannot split {trained[0]}, a single number that trains; use hardware with ddp")
    return set(found.values())


def _owners(module: nn.Module) -> Counter[int]:
    """How many modules hold each parameter."""
    return Counter(id(each) for part in module.modules() for each in part.parameters(recurse=False))


def _refuse_mixtures(parameters: Iterable[nn.Parameter], where: str) -> None:
    trained = set()
    for parameter in parameters:
        if not parameter.is_floating_point():
            raise ValueError(f"FSDP cannot split packed (4-bit) weights, and {where} has some; use hardware with ddp")
        trained |= {parameter.dtype} if parameter.requires_grad else set()
    if len(trained) > 1:
        raise ValueError(
            f"{where} trains parameters of {' and '.join(sorted(map(str, trained)))}; with FSDP what trains together "
            "has one dtype: float32 (such as model.language_model.dtype=float32)"
        )


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all processes, with the checkpoints of a single one.

    A checkpoint is one file with the whole tensors of what trains and the optimizer's state by position, as every
    other strategy here writes it, so a run may go on with or without FSDP. (Lightning's own form numbers the
    optimizer's state by the order of the module's parameters instead of the optimizer's, and would gather the frozen
    weights as well.) Each rank reads the file for itself and keeps its part.

    For an evaluation, from its start to the end of the last hook, the whole model is on every rank, so that a rank with
    more batches or longer answers waits for nobody.
    """

    def __init__(self, *, processes: int, process_group_backend: str | None = None) -> None:
        """
        Args:
            processes: of the whole run, devices x nodes. Lightning's "auto" splits over nodes only.
            process_group_backend: nccl or gloo; by the accelerator if None.
        """
        super().__init__(
            data_parallel_size=processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
        )
        self._gathered = False

    def setup(self, trainer: Trainer) -> None:
        if not isinstance(self.lightning_module, FSDPModule):  # each rank would train for itself
            name = type(self.lightning_module).__name__
            raise ValueError(f"{name} does not split itself (common.parallel.shard in configure_model); use ddp")
        super().setup(trainer)

    # Evaluation

    def on_validation_start(self) -> None:
        self._gather()

    def on_validation_end(self) -> None:
        self._release()

    def on_test_start(self) -> None:
        self._gather()

    def on_test_end(self) -> None:
        self._release()

    def on_predict_start(self) -> None:
        self._gather()

    def on_predict_end(self) -> None:
        self._release()

    def _gather(self) -> None:
        self._gathered = True
        with torch.inference_mode(False), torch.no_grad():  # an inference tensor could not train afterwards
            for unit in self._units():
                unit.set_reshard_after_forward(False, recurse=False)
                unit.unshard()

    def _release(self) -> None:
        self._gathered = False
        root: Any = self.lightning_module
        for unit in self._units():
            unit.set_reshard_after_forward(unit is not root, recurse=False)
            unit.reshard()

    def _units(self) -> Iterator[FSDPModule]:
        assert self.lightning_module is not None
        return (part for part in self.lightning_module.modules() if isinstance(part, FSDPModule))

    # Checkpoints

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole tensors of what trains, in the memory of rank 0; empty on the others. Called by every rank."""
        assert self.lightning_module is not None
        for unit in self._units():
            unit.reshard()  # saved at the end of a validation, the module holds gathered copies, in bfloat16 some
        trained = {name: each for name, each in self.lightning_module.named_parameters() if each.requires_grad}
        content = self._whole(trained)
        if self._gathered:
            self._gather()
        return content

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """`optimizer.state_dict()` of a single process, on rank 0; empty on the others. Called by every rank."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        content = inner.state_dict()
        states = {number: self._whole(state) for number, state in content["state"].items()}
        return {**content, "state": states} if self.is_global_zero else {}

    def _whole(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        content = {}
        for name, value in tensors.items():
            full = value.full_tensor() if isinstance(value, DTensor) else value
            if self.is_global_zero:  # the others only help to gather
                content[name] = full.detach().cpu() if isinstance(full, Tensor) else full
        return content

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """The content of the file, mapped into memory and not yet read."""
        return load_file(Path(self.broadcast(checkpoint_path)))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copies this rank's part of each trained tensor."""
        assert self.lightning_module is not None
        own = dict(self.lightning_module.named_parameters())
        state = {
            name: _part(value, own[name]) if name in own else value for name, value in checkpoint["state_dict"].items()
        }
        load_trained(self.lightning_module, state, source="the checkpoint")

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Gives each optimizer this rank's part of its state."""
        for optimizer, content in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            saved = [number for group in content["param_groups"] for number in group["params"]]
            params = [each for group in optimizer.param_groups for each in group["params"]]
            owner = dict(zip(saved, params, strict=True))
            states = {
                number: {name: _part(value, owner[number]) for name, value in state.items()}
                for number, state in content["state"].items()
            }
            optimizer.load_state_dict({**content, "state": states})


def _part(value: Any, like: Tensor) -> Any:
    """The part of a whole tensor that a rank keeps, split as `like` is; other values (step counts) as they are."""
    if not isinstance(value, Tensor) or not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
