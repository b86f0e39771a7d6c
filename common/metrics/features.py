"""Distances of two sets of pictures or clips in the features of a published network: FID, KID, FVD; Inception Score.

The statistics are those of torchmetrics. The networks are the TorchScript files that the definitions go by: FID, KID
and IS name the Inception network of 2015 (inception-2015-12-05.pt as NVIDIA publishes it for StyleGAN), FVD the I3D
network of Kinetics-400 (i3d_torchscript.pt of StyleGAN-V). The packages that hold them as classes import torchvision.

A TorchScript file is a program. It is only run where its path is given, so take it from where it is published; its
SHA-256 is part of every result and may be required.
"""

import hashlib
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from common.shapes import expect

Keeping = TypeVar("Keeping", KernelInceptionDistance, InceptionScore)
I3D_SIZE = 224  # pixels
I3D_FRAMES = 10  # fewer are halved to nothing within the network
KID_SUBSETS, KID_SUBSET = 100, 1000  # of Binkowski et al. 2018
IS_SPLITS = 10  # of Salimans et al. 2016
IS_LEAST = 2 * IS_SPLITS  # pictures


class Spread(NamedTuple):
    """A mean over subsets or splits, their standard deviation, and how many samples each of them has."""

    value: float
    deviation: float
    samples: int


class Network(nn.Module):
    """A feature network from a TorchScript file, frozen.

    Attributes:
        path: of the file.
        sha256: of the file, hexadecimal.
    """

    def __init__(self, path: str, *, sha256: str | None = None, device: str = "cpu") -> None:
        """
        Args:
            path: TorchScript file.
            sha256: what its digest must be; None takes any.
            device: where it runs.

        Raises:
            ValueError: no such file, another digest, or a file that is not TorchScript.
        """
        super().__init__()
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{path} is no file; feature networks are taken by path, nothing is downloaded")
        with open(self.path, "rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 is not None and sha256.lower() != self.sha256:
            raise ValueError(
                f"{path} has SHA-256 {self.sha256}, not {sha256}; fetch it again from where it is published"
            )
        try:
            with warnings.catch_warnings():  # TorchScript is on its way out; the published files are in it
                warnings.simplefilter("ignore", DeprecationWarning)
                self.script = torch.jit.load(str(self.path), map_location=device).eval()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(f"{path} is not TorchScript ({first}); state dicts hold no network") from error
        self.requires_grad_(False)

    def _run(self, pixels: Tensor, **options: bool) -> Tensor:
        try:
            with torch.no_grad():
                found = self.script(pixels, **options)
        except (RuntimeError, torch.jit.Error) as error:
            last = str(error).strip().splitlines()[-1]
            raise ValueError(f"{self.path} does not run as the network it is taken for: {last}") from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(pixels):
            raise ValueError(f"{self.path} does not give one row of features for each input")
        return found.double()


class Inception(Network):
    """The Inception network of FID. It resizes to 299 pixels itself, as the original graph does."""

    def features(self, pictures: Tensor) -> Tensor:
        """Features of the last pooling: float64 (B, 2048), of uint8 (B, 3, H, W)."""
        expect(pictures, "B C H W", name="pictures", C=3, dtype=torch.uint8)
        return self._run(pictures, return_features=True)

    def log_probabilities(self, pictures: Tensor) -> Tensor:
        """Logarithms of the class probabilities, without the bias of the last layer: float64 (B, classes)."""
        expect(pictures, "B C H W", name="pictures", C=3, dtype=torch.uint8)
        return self._run(pictures, no_output_bias=True).log()


class I3d(Network):
    """The I3D network of FVD."""

    def features(self, clips: Tensor) -> Tensor:
        """Logits: float64 (B, 400), of uint8 (B, T, 3, H, W), at least 10 frames, resized bilinearly to 224 x 224.

        Raises:
            ValueError: other shapes or dtypes, or too few frames.
        """
        expect(clips, "B T C H W", name="clips", C=3, dtype=torch.uint8)
        count, frames = clips.shape[:2]
        if frames < I3D_FRAMES:
            raise ValueError(f"FVD of clips of {frames} frames: I3D needs at least {I3D_FRAMES}")
        resized = functional.interpolate(clips.flatten(0, 1).float(), size=(I3D_SIZE, I3D_SIZE), mode="bilinear")
        values = (resized / 127.5 - 1).view(count, frames, 3, I3D_SIZE, I3D_SIZE).transpose(1, 2)
        return self._run(values, rescale=False, resize=False, return_features=True)


class _Given(nn.Module):
    """Features that are there already, in the place of a network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet(real: Tensor, generated: Tensor) -> float:
    """Frechet distance of two Gaussians with the means and covariances of the features (Heusel et al. 2017).

    It is biased upward for few samples: below as many as there are features a covariance is singular.

    Args:
        real: float64 (N, D), N >= 2.
        generated: float64 (M, D), M >= 2.

    Raises:
        ValueError: fewer samples, or other widths.
    """
    _check(real, generated)
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.update(real.double().cpu(), real=True)
    metric.update(generated.double().cpu(), real=False)
    return float(metric.compute())


def kernel(real: Tensor, generated: Tensor, *, seed: int, subset: int | None = None) -> Spread:
    """Squared maximum mean discrepancy with the cubic kernel, over 100 random subsets (Binkowski et al. 2018).

    It is unbiased, and may be below 0.

    Args:
        real: float64 (N, D).
        generated: float64 (M, D).
        seed: of the subsets.
        subset: samples in each; None for the published 1,000, or all where there are fewer.
    """
    _check(real, generated)
    size = min(subset or KID_SUBSET, len(real), len(generated))
    metric = _quiet(KernelInceptionDistance, feature=_Given(real.shape[1]), subsets=KID_SUBSETS, subset_size=size)
    metric.update(real.double().cpu(), real=True)
    metric.update(generated.double().cpu(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        value, deviation = metric.compute()
    return Spread(float(value), float(deviation), size)


def inception_score(log_probabilities: Tensor, *, seed: int) -> Spread:
    """Exponential of the mean information that a picture gives about its class, over 10 splits (Salimans et al. 2016).

    Args:
        log_probabilities: float64 (N, classes), N >= 20.
        seed: of the splits.

    Raises:
        ValueError: fewer than two pictures a split.
    """
    if len(log_probabilities) < IS_LEAST:
        raise ValueError(f"an Inception Score of {len(log_probabilities)} pictures; it needs at least {IS_LEAST}")
    width = log_probabilities.shape[1]
    metric = _quiet(InceptionScore, feature=_Given(width), splits=IS_SPLITS)
    metric.update(log_probabilities.double().cpu().clamp(min=math.log(1e-300)))  # 0 log 0 is 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        value, deviation = metric.compute()
    return Spread(float(value), float(deviation), len(log_probabilities) // IS_SPLITS)


def _check(real: Tensor, generated: Tensor) -> None:
    for name, features in (("real", real), ("generated", generated)):
        expect(features, "B D", name=name, D=real.shape[-1])
        if len(features) < 2:
            raise ValueError(f"{name} is one sample: a distance of sets needs at least two of each")


def _quiet(metric: Callable[..., Keeping], **options: object) -> Keeping:
    """A metric that keeps all features, without the warning that it does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric .* will save all extracted features")
        return metric(**options)
