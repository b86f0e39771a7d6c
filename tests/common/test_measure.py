"""What benchmarks measure with: parts of a clock, operations by the formula, precisions by name."""

import pytest
import torch
import torch.nn.functional as F

from common.measure import Clock, autocast, operations, peak_gib

CPU = torch.device("cpu")


def test_a_clock_sums_its_parts() -> None:
    clock = Clock(CPU, ("forward", "backward"))
    for _ in range(2):
        with clock.part("forward"):
            sum(range(1000))
    assert clock.seconds["forward"] > 0
    assert clock.seconds["backward"] == 0
    assert clock.total == clock.seconds["forward"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_operations_of_products_and_attention(device: str) -> None:
    a, b = torch.ones(3, 5, device=device), torch.ones(5, 7, device=device)
    product, count = operations(lambda: a @ b)
    assert product.shape == (3, 7)
    assert count == 2 * 3 * 5 * 7
    query, key = torch.ones(2, 4, 6, 8, device=device), torch.ones(2, 4, 9, 8, device=device)
    _, count = operations(lambda: F.scaled_dot_product_attention(query, key, key))
    assert count == 2 * 2 * 2 * 4 * 6 * 9 * 8  # scores, and values by them


def test_precisions() -> None:
    a = torch.ones(2, 2)
    for precision, dtype in (("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)):
        with autocast(CPU, precision):
            assert (a @ a).dtype == dtype
    with pytest.raises(ValueError, match="precision=16-mixed is not one of 32-true, bf16-mixed"):
        autocast(CPU, "16-mixed")


def test_memory_of_this_process() -> None:
    before = peak_gib(CPU)
    held = torch.ones(2**26)
    assert 0.05 < before <= peak_gib(CPU)
    assert len(held) == 2**26
