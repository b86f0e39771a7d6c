"""Encoders that take turns: order, errors, devices, and the settings of the process."""

import threading
import time

import pytest
import torch
from torch import nn

from common.encoders.turns import copies_on, in_turn, one_thread, runs

CPU = torch.device("cpu")


def test_results_come_in_the_order_of_the_batches_from_all_encoders() -> None:
    first, second = nn.Identity(), nn.Identity()
    used = []

    def work(batch: int, encoder: nn.Module) -> tuple[int, int, int]:
        time.sleep(0.02 if encoder is first else 0)  # the second overtakes it
        used.append(batch)
        return batch, threading.get_ident(), torch.get_num_threads()

    results = list(in_turn(work, iter(range(7)), [first, second]))
    assert [batch for batch, _, _ in results] == list(range(7))
    assert used != list(range(7))
    assert len({thread for _, thread, _ in results}) == 2
    assert {threads for _, _, threads in results} == {1}


def test_batches_are_read_only_a_few_ahead() -> None:
    read = 0

    def batches():  # type: ignore[no-untyped-def]
        nonlocal read
        for number in range(50):
            read += 1
            yield number

    results = in_turn(lambda batch, _: batch, batches(), [nn.Identity()] * 2)
    next(results)
    assert read == 5
    results.close()  # type: ignore[attr-defined]


def test_an_error_of_an_encoder_comes_out() -> None:
    def work(batch: int, encoder: nn.Module) -> int:
        if batch == 2:
            raise RuntimeError("out of memory")
        return batch

    with pytest.raises(RuntimeError, match="out of memory"):
        list(in_turn(work, range(5), [nn.Identity()]))


def test_copies_of_one_device_are_one() -> None:
    encoder = nn.Linear(2, 2)
    copies = copies_on(encoder, [CPU, CPU])
    assert copies[0] is copies[1]
    assert copies[0] is not encoder
    assert torch.equal(copies[0].weight, encoder.weight)


def test_one_thread_and_full_precision_within_the_block_alone() -> None:
    threads, allowed = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(3)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_num_threads() == 3
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = allowed


def test_runs() -> None:
    assert list(runs([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(runs([], 2)) == []
