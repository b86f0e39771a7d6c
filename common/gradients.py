"""Gradients between the backward pass and the step of the optimizer, whichever strategy keeps them."""

from lightning import Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer

from common.zero import Zero


def own_gradients(trainer: Trainer, optimizer: Optimizer) -> list[Tensor]:
    """This rank's part of all gradients."""
    if isinstance(trainer.strategy, Zero):
        return trainer.strategy.gradients()
    parameters = (each for group in optimizer.param_groups for each in group["params"])
    gradients = [each.grad for each in parameters if each.grad is not None]
    return [each.to_local() if isinstance(each, DTensor) else each for each in gradients]


def gradient_of(parameter: Parameter, trainer: Trainer) -> Tensor | None:
    """The gradient of one parameter of the module, put together where ranks hold parts; None where there is none.

    Called by every rank.
    """
    if isinstance(trainer.strategy, Zero):
        return trainer.strategy.gradient_of(parameter)
    gradient = parameter.grad
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def step_follows(trainer: Trainer) -> bool:
    """Whether a hook before the step is called before one; with DeepSpeed it is called after every micro-batch."""
    return not isinstance(trainer.strategy, Zero) or trainer.strategy.step_follows()
