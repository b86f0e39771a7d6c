"""How large the weights of a module are, and in which pieces a strategy takes them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from common.memory.ledger import storage_bytes


@dataclass(frozen=True)
class Sizes:
    """Bytes (as the module holds them) and numbers of weights.

    A unit is a block that FSDP gathers by itself; the root is what is in none. What can be packed into 4 bits are the
    frozen matrices in the largest stack of blocks, the language model's.
    """

    frozen: int
    trained: int
    frozen_count: int
    trained_count: int
    root: int
    root_trained: int
    units_count: int
    largest_count: int
    largest_trained_count: int
    packable: int
    packable_count: int
    packable_largest_count: int


def sizes_of(module: nn.Module) -> Sizes:
    """Sizes of a module, real or without storage."""
    parameters = list(module.parameters())
    trained = [each for each in parameters if each.requires_grad]
    frozen = [each for each in parameters if not each.requires_grad]
    units = list(units_of(module))
    inside = {id(each) for unit in units for each in unit.parameters()}
    root = [each for each in parameters if id(each) not in inside]
    largest = max(units, key=lambda unit: _count(unit.parameters()), default=nn.Module())
    packable = list(_packable(module))
    return Sizes(
        frozen=storage_bytes([*frozen, *module.buffers()]),
        trained=storage_bytes(trained),
        frozen_count=_count(frozen),
        trained_count=_count(trained),
        root=storage_bytes(root),
        root_trained=storage_bytes(each for each in root if each.requires_grad),
        units_count=_count(each for unit in units for each in unit.parameters()),
        largest_count=_count(largest.parameters()),
        largest_trained_count=_count(each for each in largest.parameters() if each.requires_grad),
        packable=storage_bytes(packable),
        packable_count=_count(packable),
        packable_largest_count=max((each.numel() for each in packable), default=0),
    )


def stacks_of(module: nn.Module) -> Iterator[nn.ModuleList]:
    """The outermost lists of blocks."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from stacks_of(child)


def units_of(module: nn.Module) -> Iterator[nn.Module]:
    """Blocks that are gathered one at a time."""
    for stack in stacks_of(module):
        yield from stack


def _packable(module: nn.Module) -> Iterator[Tensor]:
    stack = max(stacks_of(module), key=lambda each: _count(each.parameters()), default=nn.ModuleList())
    for part in stack.modules():
        if isinstance(part, nn.Linear) and not part.weight.requires_grad:
            yield part.weight


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
