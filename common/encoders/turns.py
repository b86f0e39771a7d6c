"""Frozen encoders on one or several devices take turns; what comes out does not depend on how many there are."""

import copy
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import nn

B = TypeVar("B")
E = TypeVar("E", bound=nn.Module)
R = TypeVar("R")

BATCHES_AHEAD = 2  # for each device, so that it has work while a shard is written


def pick_devices(names: str | Sequence[str]) -> list[torch.device]:
    """The devices that a setting stands for.

    Args:
        names: "auto" (every CUDA device, or else the CPU once a core), a name, or a list of names. A name may be
            repeated: [cpu, cpu] is two encoders of one thread.

    Raises:
        ValueError: a name is none, or there is no such device here.
    """
    cuda = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if names == "auto":
        return cuda or [torch.device("cpu")] * (os.cpu_count() or 1)
    wanted = [names] if isinstance(names, str) else list(names)
    known = {"cpu": torch.device("cpu")} | {str(device): device for device in cuda}
    known |= {"cuda": cuda[0]} if cuda else {}
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ValueError(f"task.devices={names}: there is auto, {', '.join(known)}")
    return [known[name] for name in wanted]


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch work on one thread and in full float32; the settings of the process come back afterwards."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


def runs(items: Sequence[B], size: int) -> Iterator[Sequence[B]]:
    """Runs of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def copies_on(encoder: E, places: Sequence[torch.device]) -> list[E]:
    """One encoder for each place; places of the same device share theirs."""
    on = {place: copy.deepcopy(encoder).to(place) for place in set(places)}
    return [on[place] for place in places]


def in_turn(work: Callable[[B, E], R], batches: Iterable[B], encoders: Sequence[E]) -> Iterator[R]:
    """Hands batches to the encoders in turn, each in a thread of its own; yields results in the order of the batches.

    Args:
        work: on one batch with one encoder.
        batches: read a few ahead of what is yielded, in the caller's thread.
        encoders: at least one.
    """
    pending: deque[Future[R]] = deque()
    with ExitStack() as stack:
        threads = [ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) for _ in encoders]
        for thread in threads:
            stack.callback(thread.shutdown, cancel_futures=True)
        for batch, encoder, thread in zip(batches, itertools.cycle(encoders), itertools.cycle(threads), strict=False):
            pending.append(thread.submit(work, batch, encoder))
            if len(pending) > BATCHES_AHEAD * len(encoders):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
