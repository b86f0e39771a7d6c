"""Small TorchScript networks with the signatures of the published ones."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class TinyInception(nn.Module):
    """Features: mean of each channel in 0..1, 3 of them. Probabilities: their share of the sum."""

    def forward(self, img: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        means = img.float().mean(dim=(2, 3)) / 255
        if return_features:
            return means
        assert no_output_bias
        return means / means.sum(dim=1, keepdim=True)


class TinyI3d(nn.Module):
    """Features: mean over a clip of each channel as it comes in; 2 more about its shape."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        assert not rescale and not resize and return_features  # noqa: PT018
        shape = torch.tensor([float(x.shape[2]), float(x.shape[3])]).expand(x.shape[0], 2)
        return torch.cat([x.mean(dim=(2, 3, 4)), shape], dim=1)


def save(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network).save(str(path))
    return path
