"""Floating-point operations of a training step, counted without storage."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from common.memory.trace import Machine, as_on, build_fake
from common.types import Build

AGAIN: Mapping[str, Any] = {"checkpoint_fraction": 0.0, "checkpointing": False}


def model_operations(module: Build[LightningModule], batch: Any) -> int:
    """Operations of forward and backward, 2 for each multiplication and addition.

    Attention is counted as matrix products over all positions, masked ones too. Norms, activations and the optimizer
    count nothing.

    Args:
        module: recipe with random weights; see `once` for what is computed again.
        batch: a micro-batch on the CPU.
    """
    fake = FakeTensorMode()
    model = build_fake(module, fake)
    inputs = tree_map_only(Tensor, fake.from_tensor, batch)
    with fake, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        with as_on(Machine("bf16-mixed", gpu=False), autocast=True):
            loss: Any = model.training_step(inputs, 0)
        loss.backward()
    return int(counter.get_total_flops())


def once(node: Any) -> Any:
    """A part of a configuration in which no activation is computed again in the backward pass."""
    if isinstance(node, list):
        return [once(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    return {name: AGAIN.get(str(name), once(value)) for name, value in node.items()}
