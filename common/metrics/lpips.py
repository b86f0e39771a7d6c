"""LPIPS (Zhang et al. 2018, arXiv:1801.03924): distance of pictures in the features of a classifier.

A trunk trained on ImageNet and one weight for each of its channels. The trunk comes as the state dict that torchvision
publishes (alexnet-owt-7be5be79.pth, vgg16-397923af.pth), the weights of channels as the one that lpips 0.1 publishes
and torchmetrics carries. Only tensors are read from either.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torchmetrics
from torch import Tensor, nn

from common.shapes import expect

Net = Literal["alex", "vgg"]

# Mean and spread that the trunks were trained with, for values in -1..1.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10
SMALLEST = {"alex": 31, "vgg": 16}  # pixels; less leaves nothing after the last pooling


def alex() -> nn.Sequential:
    """Convolutions of AlexNet (Krizhevsky 2014), numbered as in torchvision."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def vgg() -> nn.Sequential:
    """Convolutions of VGG16 (Simonyan and Zisserman 2014), numbered as in torchvision."""
    layers: list[nn.Module] = []
    before = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2, stride=2))
    return nn.Sequential(*layers[:-1])


# The trunk, and after which of its layers features are taken.
TRUNKS = {"alex": (alex, (1, 4, 7, 9, 11)), "vgg": (vgg, (3, 8, 15, 22, 29))}


class Lpips(nn.Module):
    """Distance of each picture to the true one, 0 for equal ones. Frozen, in float32."""

    def __init__(self, *, trunk: str, net: Net = "alex", heads: str | None = None) -> None:
        """
        Args:
            trunk: state dict of the classifier, a file.
            net: "alex", which is usual for scores, or "vgg".
            heads: weights of the channels, a file; None for those of torchmetrics, version 0.1 as published.

        Raises:
            ValueError: an unknown net, or a file that is not there or holds something else.
        """
        super().__init__()
        if net not in TRUNKS:
            raise ValueError(f"net={net!r} of LPIPS; there is {' and '.join(TRUNKS)}")
        make, self.taps = TRUNKS[net]
        self.net, self.trunk = net, make()
        published = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"
        self._load_trunk(Path(trunk))
        self._load_heads(published if heads is None else Path(heads))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def _load_trunk(self, path: Path) -> None:
        state = _tensors(path)
        wanted = self.trunk.state_dict()
        found = {name: state.get(f"features.{name}") for name in wanted}
        held: dict[str, Tensor] = {}
        for name, tensor in found.items():
            if tensor is None or tensor.shape != wanted[name].shape:
                raise ValueError(f"{path} has no features.{name} of {list(wanted[name].shape)}; it is not {self.net}")
            held[name] = tensor
        self.trunk.load_state_dict(held)

    def _load_heads(self, path: Path) -> None:
        state = _tensors(path)
        layers = [self.trunk[tap - 1] for tap in self.taps]
        for number, layer in enumerate(layers):
            assert isinstance(layer, nn.Conv2d)
            name = f"lin{number}.model.1.weight"
            weight = state.get(name)
            if weight is None or weight.numel() != layer.out_channels:
                raise ValueError(
                    f"{path} has no {name} of {layer.out_channels} channels; it is not LPIPS of {self.net}"
                )
            self.register_buffer(f"head{number}", weight.detach().float().reshape(1, -1, 1, 1))

    def train(self, mode: bool = True) -> "Lpips":
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pred: Tensor, truth: Tensor) -> Tensor:
        """Distances.

        Args:
            pred: uint8 (B, 3, H, W).
            truth: uint8 (B, 3, H, W).

        Returns:
            float32 (B,).

        Raises:
            ValueError: other shapes or dtypes, or pictures too small for the trunk.
        """
        expect(pred, "B C H W", name="pred", C=3, dtype=torch.uint8)
        expect(truth, "B C H W", name="truth", B=len(pred), C=3, dtype=torch.uint8)
        if min(pred.shape[-2:]) < SMALLEST[self.net]:
            raise ValueError(
                f"LPIPS of {pred.shape[-1]} x {pred.shape[-2]} pixels: {self.net} needs at least {SMALLEST[self.net]}"
            )
        # Autocast would take the trunk to half precision, and scores would depend on the precision of training.
        with torch.autocast(pred.device.type, enabled=False):
            pairs = zip(self._features(pred), self._features(truth), strict=True)
            distances = [
                (getattr(self, f"head{number}") * (one - two).square()).sum(dim=1).mean(dim=(1, 2))
                for number, (one, two) in enumerate(pairs)
            ]
        return torch.stack(distances).sum(dim=0)

    def _features(self, pictures: Tensor) -> list[Tensor]:
        """Features at the taps, each pixel of length 1."""
        assert isinstance(self.shift, Tensor)
        assert isinstance(self.scale, Tensor)
        values = (pictures.float() / 127.5 - 1 - self.shift) / self.scale
        found = []
        for number, layer in enumerate(self.trunk):
            values = layer(values)
            if number in self.taps:
                found.append(values / (values.square().sum(dim=1, keepdim=True).sqrt() + EPSILON))
        return found


def _tensors(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} is no file; LPIPS takes the state dict of its trunk by path (model.lpips.trunk)")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict")
    return state
