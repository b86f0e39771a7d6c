"""What is allocated while a model runs, by what it is for."""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = ("weights", "gradients", "optimizer", "copies", "activations")


class Moment(NamedTuple):
    """Bytes that are alive at one moment beside weights and optimizer state.

    `copies` are weights in the dtype of the products, which autocast makes and autograd keeps.
    """

    activations: int
    copies: int
    gradients: int


class Ledger(TorchDispatchMode):
    """Enters every storage that an operation returns and strikes it out when it is freed; real or fake tensors alike.

    A storage is counted once, whoever shares it. What a kernel allocates and frees within itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = dict.fromkeys(KINDS, 0)
        self._entries: dict[int, tuple[str, int, Any]] = {}
        self._highest: dict[int, Moment] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:  # two thirds of all calls
            return result
        copies = func is torch.ops.aten._to_copy.default and self._kind(args[0]) == "weights"
        for tensor in _tensors(result):
            self._enter(tensor, "copies" if copies else "activations")
        self._note()
        return result

    # What is what

    def weights(self, module: nn.Module) -> None:
        """Enters parameters and buffers, and from now on the gradients that parameters get."""
        for tensor in [*module.parameters(), *module.buffers()]:
            self._enter(tensor, "weights", rename=True)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self.gradient)  # type: ignore[no-untyped-call]

    def gradient(self, parameter: Tensor) -> None:
        """Enters the gradient of a parameter."""
        assert parameter.grad is not None
        self._enter(parameter.grad, "gradients", rename=True)

    def states(self, optimizer: Optimizer) -> None:
        """Enters the state of an optimizer."""
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    self._enter(value, "optimizer", rename=True)

    # What was highest

    def restart(self) -> None:
        """Forgets what was highest; what is alive stays entered."""
        self._highest = {}
        self._note()

    def moments(self) -> list[Moment]:
        """For each size that the gradients had, the highest moment of the rest.

        The highest sum of all parts is among them, also where gradients count only a share.
        """
        return list(self._highest.values())

    def _note(self) -> None:
        alive = self.alive
        moment = Moment(alive["activations"], alive["copies"], alive["gradients"])
        highest = self._highest.get(moment.gradients)
        if highest is None or sum(moment) > sum(highest):
            self._highest[moment.gradients] = moment

    # Entries

    def _kind(self, value: Any) -> str | None:
        if not isinstance(value, Tensor):
            return None
        entry = self._entries.get(value.untyped_storage()._cdata)
        return None if entry is None else entry[0]

    def _enter(self, tensor: Tensor, kind: str, *, rename: bool = False) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._entries:
            if rename:
                self._rename(key, kind)
            return
        size = storage.nbytes()
        self._entries[key] = (kind, size, weakref.ref(storage, lambda _: self._strike(key)))
        self.alive[kind] += size

    def _rename(self, key: int, kind: str) -> None:
        old, size, reference = self._entries[key]
        self._entries[key] = (kind, size, reference)
        self.alive[old] -= size
        self.alive[kind] += size

    def _strike(self, key: int) -> None:
        kind, size, _ = self._entries.pop(key)
        self.alive[kind] -= size


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, list | tuple):
        for each in result:
            yield from _tensors(each)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors, each once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())
