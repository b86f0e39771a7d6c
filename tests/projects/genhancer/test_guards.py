"""A tower that nothing reaches stops the run; one that learns does not."""

import pytest
import torch

from projects.genhancer.guards import TowerGuard, TowerLearnsNothingError, refuse_detached


def gradients(value: float) -> list[torch.Tensor | None]:
    return [torch.full((3,), value), None]


def test_a_gradient_is_enough() -> None:
    guard = TowerGuard(steps=2)
    assert guard.watch(gradients(2.0)) == pytest.approx(2 * 3**0.5)
    assert guard.watch(gradients(0.0)) is None  # satisfied


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_no_gradient_stops_the_run(value: float) -> None:
    guard = TowerGuard(steps=2)
    guard.watch(gradients(value))
    with pytest.raises(TowerLearnsNothingError, match="in 2 steps no gradient reached the 2 tensors"):
        guard.watch(gradients(value))


def test_a_late_gradient_within_the_steps_is_in_time() -> None:
    guard = TowerGuard(steps=2)
    guard.watch(gradients(0.0))
    guard.watch(gradients(1.0))
    assert guard.satisfied


def test_no_gradient_is_gathered_once_one_was_there() -> None:
    guard = TowerGuard(steps=1)
    guard.watch(gradients(1.0))
    left = iter(gradients(1.0))
    guard.watch(left)
    assert len(list(left)) == 2


def test_every_start_is_watched_anew() -> None:
    guard = TowerGuard(steps=1)
    guard.watch(gradients(1.0))
    guard.start()
    with pytest.raises(TowerLearnsNothingError, match="in 1 steps"):
        guard.watch(gradients(0.0))


def test_it_cannot_be_switched_off() -> None:
    with pytest.raises(ValueError, match="always on"):
        TowerGuard(steps=0)


def test_detached_embeddings_are_refused_while_training() -> None:
    refuse_detached(torch.ones(1, requires_grad=True))
    with torch.no_grad():
        refuse_detached(torch.ones(1))
    with pytest.raises(TowerLearnsNothingError, match="carry no gradient"):
        refuse_detached(torch.ones(1))
