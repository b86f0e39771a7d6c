"""LPIPS on random weights against the implementation of torchmetrics, and what files it takes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as reference

from common.metrics.lpips import TRUNKS, Lpips

LAYERS = {"alex": [0, 3, 6, 8, 10], "vgg": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]}  # of torchvision


def trunk_file(folder: Path, net: str) -> tuple[nn.Sequential, Path]:
    torch.manual_seed(0)
    trunk = TRUNKS[net][0]()
    state = {f"features.{name}": tensor for name, tensor in trunk.state_dict().items()}
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, folder / f"{net}.pth")
    return trunk, folder / f"{net}.pth"


def pictures(seed: int, size: int = 48, count: int = 2) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize("net", TRUNKS)
def test_it_is_the_distance_that_torchmetrics_computes(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk, path = trunk_file(tmp_path, net)
    assert [n for n, layer in enumerate(trunk) if isinstance(layer, nn.Conv2d)] == LAYERS[net]
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda name, pretrained: trunk)
    theirs = reference._LPIPS(net=net, pretrained=True)
    pred, truth = pictures(1), pictures(2)
    expected = theirs(pred / 127.5 - 1, truth / 127.5 - 1).flatten()
    metric = Lpips(trunk=str(path), net=net)  # type: ignore[arg-type]
    found = metric(pred, truth)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert found.min() > 0
    assert metric(truth, truth).tolist() == [0, 0]
    assert metric.train()(pred[1:], truth[1:]).item() == pytest.approx(found[1].item(), rel=1e-5)
    assert not any(parameter.requires_grad for parameter in metric.parameters())


def test_published_heads_may_come_from_a_file(tmp_path: Path) -> None:
    _, path = trunk_file(tmp_path, "alex")
    widths = (64, 192, 384, 256, 256)
    torch.save({f"lin{n}.model.1.weight": torch.zeros(1, w, 1, 1) for n, w in enumerate(widths)}, tmp_path / "h.pth")
    metric = Lpips(trunk=str(path), heads=str(tmp_path / "h.pth"))
    assert metric(pictures(1), pictures(2)).tolist() == [0, 0]


def test_wrong_files_and_pictures_are_named(tmp_path: Path) -> None:
    _, path = trunk_file(tmp_path, "alex")
    with pytest.raises(ValueError, match=r"no features\.0\.weight of \[64, 3, 3, 3\]; it is not vgg"):
        Lpips(trunk=str(path), net="vgg")
    with pytest.raises(ValueError, match=r"absent\.pth is no file; .*model\.lpips\.trunk"):
        Lpips(trunk=str(tmp_path / "absent.pth"))
    with pytest.raises(ValueError, match=r"no lin0\.model\.1\.weight"):
        Lpips(trunk=str(path), heads=str(path))
    with pytest.raises(ValueError, match="there is alex and vgg"):
        Lpips(trunk=str(path), net="squeeze")  # type: ignore[arg-type]
    metric = Lpips(trunk=str(path))
    with pytest.raises(ValueError, match=r"24 x 24 pixels: alex needs at least 31"):
        metric(pictures(1, 24), pictures(2, 24))
    with pytest.raises(ValueError, match=r"pred is .*torch\.uint8"):
        metric(pictures(1).float(), pictures(2))
    assert metric(pictures(1, 32), pictures(2, 32)).shape == (2,)
