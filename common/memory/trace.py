"""One training step without storage: what it would allocate, operation by operation.

The module is built from the numbers of its configuration under `FakeTensorMode`, so nothing is read, downloaded or
computed; the operations and their shapes are the real ones, activation checkpointing and autocast included.

Fake tensors live on the CPU, because a CUDA device cannot be imitated by a torch without CUDA. Three differences to a
GPU matter, and are undone for one: attention may take the fused kernel alone, which stores no scores, as the flash and
memory-efficient kernels of CUDA do (where it cannot, there is an error and not a larger number); what CUDA's autocast
keeps in float32 (norms, softmax, powers, sums) is kept in float32; and the optimizer takes its multi-tensor form, whose
temporaries are as large as what trains.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from common.memory.ledger import Ledger, Moment, storage_bytes
from common.memory.sizes import Sizes, sizes_of, units_of
from common.types import Build

# What the weights are while a step runs: as the module holds them, all in bfloat16 (ZeRO), or the blocks in bfloat16
# and the rest as it is (FSDP, see common.parallel).
Weights = Literal["own", "bfloat16", "blocks_bfloat16"]

# Operations that CUDA's autocast runs in float32 and the CPU's does not (torch/amp, "CUDA Ops that can autocast").
NORMS = ("layer_norm", "group_norm", "norm", "softmax", "log_softmax", "cosine_similarity", "cdist")
SUMS = ("pow", "__pow__", "rsqrt", "exp", "log", "sum", "prod", "cumsum", "softplus")
LOSSES = ("nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "kl_div")
FLOAT32 = frozenset((*NORMS, *SUMS, *LOSSES))
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")


@dataclass(frozen=True)
class Machine:
    """What of a machine changes the tensors of a step.

    Attributes:
        precision: of the trainer.
        gpu: whether the devices are GPUs.
    """

    precision: str
    gpu: bool

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"trainer.precision={self.precision}: memory is known for {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class Trace:
    """Bytes of one training step on one device that holds everything.

    Attributes:
        sizes: of the weights.
        gradients: of all that trains.
        states: of the optimizer.
        moments: the highest of forward and backward; see `Ledger.moments`.
        step: temporaries of gradient clipping and of the optimizer's step.
        width: bytes of a number of a block that is gathered.
    """

    sizes: Sizes
    gradients: int
    states: int
    moments: tuple[Moment, ...]
    step: int
    width: int = 2


def trace(module: Build[LightningModule], batch: Any, *, machine: Machine, weights: Weights = "own") -> Trace:
    """Builds a module without storage and takes it through the second of two optimizer steps, as Lightning does.

    Args:
        module: recipe; its weights must be random, since no file can be read into what has no storage.
        batch: a micro-batch on the CPU.
        machine: where the step would run.
        weights: what the strategy makes of them; in 32-true nothing.
    """
    if machine.precision == "32-true":
        weights = "own"
    fake = FakeTensorMode()
    model = build_fake(module, fake)
    with fake:
        sizes = sizes_of(model)
        _cast(model, "bfloat16" if machine.precision == "bf16-true" else weights)
        optimizer = _optimizer(model, gpu=machine.gpu)
    inputs = tree_map_only(Tensor, fake.from_tensor, batch)
    ledger = Ledger()
    with fake, ledger:
        ledger.weights(model)
        step = _first_step(model, optimizer, ledger)
        ledger.restart()
        with as_on(machine, autocast=machine.precision == "bf16-mixed"):
            loss: Any = model.training_step(inputs, 0)
        optimizer.zero_grad()  # after the forward pass, where Lightning does it
        with as_on(machine, autocast=False):
            loss.backward()
    return Trace(
        sizes=sizes,
        gradients=storage_bytes(each.grad for each in model.parameters() if each.grad is not None),
        states=ledger.alive["optimizer"],
        moments=tuple(ledger.moments()),
        step=step,
        width=4 if machine.precision == "32-true" else 2,
    )


def build_fake(module: Build[LightningModule], fake: FakeTensorMode) -> LightningModule:
    """A module of fake tensors; nothing is read, and nothing is drawn at random."""
    with torch.device("meta"), _Zero():  # type: ignore[no-untyped-call]
        model = module()
        model.configure_model()
    with fake:
        _allocate(model)
    return model


def _allocate(model: LightningModule) -> None:
    """Makes the parameters and buffers, built on the meta device, fake tensors; what is shared stays so."""
    made: dict[int, Tensor] = {}
    for part in model.modules():
        owned: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for tensors in owned:
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in made:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                    learns = tensor.requires_grad
                    made[id(tensor)] = nn.Parameter(empty, learns) if isinstance(tensor, nn.Parameter) else empty
                if tensor is not None:
                    tensors[name] = made[id(tensor)]


def _cast(model: LightningModule, weights: Weights) -> None:
    if weights == "own":
        return
    parts = [model] if weights == "bfloat16" else units_of(model)
    for parameter in (each for part in parts for each in part.parameters()):
        if parameter.is_floating_point():
            parameter.data = parameter.data.bfloat16()


def _optimizer(model: LightningModule, *, gpu: bool) -> Optimizer:
    """The module's own, in the form that it would have on the device."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    model.trainer = Trainer(accelerator="cpu", max_steps=1000, enable_model_summary=False, **quiet)  # type: ignore[arg-type]
    made: Any = model.configure_optimizers()
    model.trainer = None  # what a step logs goes nowhere
    optimizer: Optimizer = made["optimizer"] if isinstance(made, Mapping) else made
    for group in optimizer.param_groups:
        if gpu and "foreach" in group and group["foreach"] is None and not group.get("fused"):
            group["foreach"] = True
    return optimizer


def _first_step(model: LightningModule, optimizer: Optimizer, ledger: Ledger) -> int:
    """Makes gradients and the optimizer's state; returns the bytes that come and go on the way."""
    trained = [each for each in model.parameters() if each.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
        ledger.gradient(parameter)
    optimizer.step()
    ledger.states(optimizer)
    ledger.restart()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    return max(moment.activations for moment in ledger.moments())


@contextmanager
def as_on(machine: Machine, *, autocast: bool) -> Iterator[None]:
    """What a step without storage needs to run as it would on a machine; see the head of this file."""
    with ExitStack() as stack:
        # transformers cannot ask fake positions whether a row is packed of several texts, and would make a mask that
        # every block keeps a copy of; what is packed here brings a mask of its own.
        if masks := sys.modules.get("transformers.masking_utils"):
            stack.enter_context(mock.patch.object(masks, "find_packed_sequence_indices", return_value=None))
        # A frozen part that a step builds when it first wants it is on the one device already, and fake parameters
        # cannot be moved.
        stack.enter_context(mock.patch.object(nn.Module, "to", _stay_or(nn.Module.to)))
        if machine.gpu:
            stack.enter_context(sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]))
            stack.enter_context(CudaAutocast())
        if autocast:
            stack.enter_context(torch.autocast("cpu", torch.bfloat16, cache_enabled=False))  # as Lightning's
        yield


def _stay_or(move: Any) -> Any:
    """`nn.Module.to` without its moves to a device and its casts to what a module is already; other casts are done."""

    def to(module: nn.Module, *args: Any, **settings: Any) -> nn.Module:
        (wanted,) = args if len(args) == 1 and not settings else (None,)
        if isinstance(wanted, str | int | torch.device):
            return module
        if isinstance(wanted, torch.dtype) and all(each.dtype == wanted for each in module.parameters()):
            return module
        moved: nn.Module = move(module, *args, **settings)
        return moved

    return to


class _Zero(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers what an initialisation asks about values (whether one is out of range) by zero."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return 0 if func is torch.ops.aten._local_scalar_dense.default else func(*args, **(kwargs or {}))


class CudaAutocast(TorchFunctionMode):
    """Makes the CPU's autocast do in float32 what CUDA's does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_autocast_enabled("cpu") and getattr(func, "__name__", "") in FLOAT32:
            args, kwargs = tree_map_only(Tensor, _widened, (args, kwargs))
        return func(*args, **(kwargs or {}))


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
