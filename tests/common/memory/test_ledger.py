"""Every byte is counted once, under what it is for, and no longer than it is there."""

import torch
from torch import nn

from common.memory.ledger import Ledger, Moment, storage_bytes


def test_kinds_come_and_go() -> None:
    model = nn.Linear(100, 10, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    ledger = Ledger()
    with ledger:
        ledger.weights(model)
        assert ledger.alive["weights"] == 4000
        rows = torch.ones(7, 100)
        loss = model(rows).sum()
        assert ledger.alive["activations"] >= 2800
        loss.backward()
        assert ledger.alive["gradients"] == 4000
        optimizer.step()
        ledger.states(optimizer)
        assert ledger.alive["optimizer"] == 2 * 4000 + 4  # two moments and the count of steps
        del rows, loss
        optimizer.zero_grad()
    assert ledger.alive == {"weights": 4000, "gradients": 0, "optimizer": 8004, "copies": 0, "activations": 0}


def test_a_view_costs_nothing() -> None:
    with Ledger() as ledger:
        rows = torch.ones(8, 8)
        views = [rows.t(), rows[2:], rows.view(64)]
        assert len(views) == 3
        assert ledger.alive["activations"] == 256


def test_what_autocast_copies_of_weights_is_told_from_activations() -> None:
    model = nn.Linear(64, 64, bias=False)
    ledger = Ledger()
    with ledger, torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        ledger.weights(model)
        out = model(torch.ones(1, 64, requires_grad=True))
    assert out.dtype == torch.bfloat16
    assert ledger.alive["copies"] == 2 * 64 * 64  # kept for the gradient of the input


def test_the_highest_moment_of_each_size_of_gradients_is_kept() -> None:
    with Ledger() as ledger:
        first = torch.ones(1000)
        assert first.numel() == 1000
        del first
        second = torch.ones(10)
        assert second.numel() == 10
        assert ledger.moments() == [Moment(activations=4000, copies=0, gradients=0)]
        ledger.restart()
        assert ledger.moments() == [Moment(activations=40, copies=0, gradients=0)]


def test_shared_storage_is_one() -> None:
    table = torch.ones(5, 5)
    assert storage_bytes([table, table.t(), torch.ones(3)]) == 112
