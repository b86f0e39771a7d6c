"""A tower that nothing reaches stops the run; one that learns does not."""

import pytest
import torch
from torch import nn

from projects.genhancer.guards import TowerGuard, TowerLearnsNothingError, refuse_detached


def layer(gradient: float | None) -> list[nn.Parameter]:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = None if gradient is None else torch.full((3,), gradient)
    return [parameter, nn.Parameter(torch.zeros(2))]


def test_a_gradient_is_enough() -> None:
    guard, members = TowerGuard(steps=2), layer(2.0)
    guard.start(members)
    assert guard.watch(members) == pytest.approx(2 * 3**0.5)
    assert guard.watch(layer(0.0)) is None  # satisfied


@pytest.mark.parametrize("gradient", [0.0, float("nan")])
def test_no_gradient_stops_the_run(gradient: float) -> None:
    guard, members = TowerGuard(steps=2), layer(gradient)
    guard.start(members)
    guard.watch(members)
    with pytest.raises(TowerLearnsNothingError, match="in 2 steps no gradient reached the 2 tensors"):
        guard.watch(members)


def test_a_late_gradient_within_the_steps_is_in_time() -> None:
    guard, members = TowerGuard(steps=2), layer(0.0)
    guard.start(members)
    guard.watch(members)
    guard.watch(layer(1.0))
    assert guard.satisfied


def test_where_gradients_are_kept_elsewhere_the_tower_must_move() -> None:
    for moves in (True, False):
        guard, members = TowerGuard(steps=1), layer(None)
        guard.start(members)
        guard.watch(members)
        if moves:
            members[0].data += 1
            guard.watch(members)
            assert guard.satisfied
        else:
            with pytest.raises(TowerLearnsNothingError, match="in 2 steps"):
                guard.watch(members)


def test_it_cannot_be_switched_off() -> None:
    with pytest.raises(ValueError, match="always on"):
        TowerGuard(steps=0)


def test_detached_embeddings_are_refused_while_training() -> None:
    refuse_detached(torch.ones(1, requires_grad=True))
    with torch.no_grad():
        refuse_detached(torch.ones(1))
    with pytest.raises(TowerLearnsNothingError, match="carry no gradient"):
        refuse_detached(torch.ones(1))
