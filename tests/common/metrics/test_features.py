"""Statistics against closed forms; networks by path and by digest."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.metrics.features import I3d, Inception, frechet, inception_score, kernel
from tests.common.metrics.scripted import TinyI3d, TinyInception, save


def gaussian(count: int, mean: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """Samples whose mean and covariance (with count - 1) are exactly these."""
    draw = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    draw -= draw.mean(dim=0)
    white = draw @ torch.linalg.inv(torch.linalg.cholesky(draw.T @ draw / (count - 1))).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_frechet_distance_of_axis_parallel_gaussians() -> None:
    one = gaussian(40, double(0, 1, 2), torch.diag(double(1, 4, 9)), 0)
    two = gaussian(70, double(3, 1, 0), torch.diag(double(4, 4, 0.25)), 1)
    expected = 9 + 4 + (1 - 2) ** 2 + (3 - 0.5) ** 2  # means, then standard deviations
    assert frechet(one, two) == pytest.approx(expected, rel=1e-9)
    assert frechet(two, one) == pytest.approx(expected, rel=1e-9)
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_tilted_gaussians() -> None:
    # In two dimensions the trace of the root of a product is (tr(AB) + 2 sqrt(det(AB)))^(1/2).
    a = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, -0.4], [-0.4, 3.0]], dtype=torch.float64)
    root = ((a @ b).trace() + 2 * (a @ b).det().sqrt()).sqrt()
    expected = float(a.trace() + b.trace() - 2 * root)
    zero = double(0, 0)
    assert frechet(gaussian(30, zero, a, 0), gaussian(30, zero, b, 1)) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_the_unbiased_estimator() -> None:
    draw = torch.Generator().manual_seed(0)
    one, two = (torch.randn(12, 5, generator=draw, dtype=torch.float64) + shift for shift in (0.0, 0.7))

    def kind(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 5 + 1) ** 3)

    def within(x: Tensor) -> float:
        return sum(kind(x[i], x[j]) for i in range(12) for j in range(12) if i != j) / (12 * 11)

    across = sum(kind(a, b) for a in one for b in two) / 144
    found = kernel(one, two, seed=0)
    assert found.value == pytest.approx(within(one) + within(two) - 2 * across, rel=1e-9)
    assert found.deviation == pytest.approx(0, abs=1e-9)  # every subset is the whole
    assert found.samples == 12


def test_subsets_of_the_kernel_distance_depend_on_the_seed_alone() -> None:
    draw = torch.Generator().manual_seed(1)
    one, two = (torch.randn(count, 4, generator=draw, dtype=torch.float64) for count in (40, 30))
    first = kernel(one, two, seed=3, subset=10)
    before = torch.get_rng_state()
    assert kernel(one, two, seed=3, subset=10) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert kernel(one, two, seed=4, subset=10) != first
    assert abs(first.value) < 3 * first.deviation  # of one distribution


def test_inception_score_of_sure_and_of_unsure_classes() -> None:
    sure = torch.eye(4, dtype=torch.float64).repeat(1000, 1).log()  # zeros among the probabilities
    found = inception_score(sure, seed=0)
    assert found.value == pytest.approx(4, rel=0.01)
    assert found.samples == 400
    unsure = double(0.1, 0.2, 0.3, 0.4).log().expand(50, 4)
    assert inception_score(unsure, seed=0).value == pytest.approx(1, abs=1e-9)
    with pytest.raises(ValueError, match="19 pictures; it needs at least 20"):
        inception_score(unsure[:19], seed=0)


def test_one_sample_has_no_distance() -> None:
    with pytest.raises(ValueError, match="generated is one sample"):
        frechet(torch.zeros(5, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="generated is"):
        kernel(torch.zeros(5, 3), torch.zeros(5, 4), seed=0)


def test_pictures_reach_the_network_as_they_are(tmp_path: Path) -> None:
    network = Inception(str(save(TinyInception(), tmp_path / "inception.pt")))
    pictures = torch.zeros(2, 3, 8, 9, dtype=torch.uint8)
    pictures[1, 0], pictures[1, 1] = 255, 85
    pictures[0] = 51
    assert network.features(pictures)[1].tolist() == pytest.approx([1, 1 / 3, 0])
    assert network.log_probabilities(pictures)[0].exp().tolist() == pytest.approx([1 / 3] * 3)
    with pytest.raises(ValueError, match=r"pictures is .* torch\.uint8"):
        network.features(pictures.float())


def test_clips_are_scaled_and_resized(tmp_path: Path) -> None:
    network = I3d(str(save(TinyI3d(), tmp_path / "i3d.pt")))
    clips = torch.zeros(1, 12, 3, 8, 8, dtype=torch.uint8)
    clips[:, :, 1], clips[:, :6, 2] = 255, 255
    assert network.features(clips)[0].tolist() == pytest.approx([-1, 1, 0, 12, 224])
    with pytest.raises(ValueError, match="9 frames: I3D needs at least 10"):
        network.features(clips[:, :9])


def test_networks_are_files_of_a_stated_digest(tmp_path: Path) -> None:
    path = save(TinyInception(), tmp_path / "inception.pt")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert Inception(str(path), sha256=digest.upper()).sha256 == digest
    with pytest.raises(ValueError, match=rf"has SHA-256 {digest}, not 00"):
        Inception(str(path), sha256="00")
    with pytest.raises(ValueError, match="nothing is downloaded"):
        Inception(str(tmp_path / "absent.pt"))
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "state.pth")
    with pytest.raises(ValueError, match="is not TorchScript"):
        Inception(str(tmp_path / "state.pth"))


def test_another_network_is_named(tmp_path: Path) -> None:
    path = save(TinyI3d(), tmp_path / "i3d.pt")
    with pytest.raises(ValueError, match=r"i3d\.pt does not run as the network it is taken for"):
        Inception(str(path)).features(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
