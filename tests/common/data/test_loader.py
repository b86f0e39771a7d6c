"""Loader processes that die are named."""

import faulthandler
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess

import pytest
import torch

from common.data.loader import Loader, named


def dies(by: int) -> None:
    faulthandler.disable()
    time.sleep(0.2)  # what follows a broken connection, not what precedes it
    if by:
        os.kill(os.getpid(), by)
    os._exit(3)


def sleeps() -> None:
    time.sleep(600)


@pytest.fixture
def sleeper() -> Iterator[BaseProcess]:
    process = multiprocessing.get_context("fork").Process(target=sleeps)
    process.start()
    yield process
    process.kill()
    process.join()


def broken(error: Exception) -> Iterator[int]:
    yield 1
    raise error


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset by peer"), EOFError()], ids=["reset", "end"])
@pytest.mark.parametrize(
    ("by", "how"),
    [
        (signal.SIGKILL, "is killed by signal: Killed"),
        (signal.SIGSEGV, "signal: Segmentation"),
        (0, "ended with status 3"),
    ],
)
def test_a_process_that_dies_while_it_hands_over_a_batch_is_named(
    by: int, how: str, error: Exception, sleeper: BaseProcess
) -> None:
    process = multiprocessing.get_context("fork").Process(target=dies, args=(by,))
    process.start()
    batches = named(broken(error), [sleeper, process])
    assert next(batches) == 1
    with pytest.raises(RuntimeError, match=f"^Loader process {process.pid} .*{how}.*lower data.num_workers") as raised:
        next(batches)
    assert raised.value.__cause__ is error


def test_a_broken_connection_of_something_else_stays_what_it_is(
    sleeper: BaseProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.data.loader.SECONDS", 0.01)
    batches = named(broken(ConnectionResetError(104, "reset by peer")), [sleeper])
    next(batches)
    with pytest.raises(ConnectionResetError):
        next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_as_from_torch(workers: int) -> None:
    loader = Loader(list(range(6)), batch_size=2, num_workers=workers, persistent_workers=workers > 0)
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    assert all(isinstance(batch, torch.Tensor) for batch in loader)
