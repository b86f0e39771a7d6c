"""Boxes of random area and aspect ratio."""

import numpy as np
import pytest
import torch

from projects.genhancer.crops import Box, Crops, cut


def boxes(crops: Crops, height: int, width: int, count: int = 300) -> list[Box]:
    source = torch.Generator().manual_seed(0)
    return [crops.draw(height, width, source=source) for _ in range(count)]


def test_boxes_lie_inside_and_keep_their_ranges() -> None:
    found = boxes(Crops(area=[0.3, 0.8]), 120, 160)
    for top, left, height, width in found:
        assert min(top, left) >= 0
        assert top + height <= 120
        assert left + width <= 160
    areas = np.array([box.height * box.width / (120 * 160) for box in found])
    ratios = np.array([box.width / box.height for box in found])
    assert 0.29 < areas.min() < 0.35
    assert 0.7 < areas.max() < 0.81
    assert 0.74 < ratios.min() < 0.8
    assert 1.27 < ratios.max() < 1.35
    assert len({*found}) > 250


def test_a_picture_that_no_box_fits_in_gives_its_middle() -> None:
    # 0.9 of the area of a strip has no allowed aspect ratio.
    assert {*boxes(Crops(), 100, 400, 20)} == {Box(0, 133, 100, 133)}
    assert {*boxes(Crops(), 400, 100, 20)} == {Box(133, 0, 133, 100)}


@pytest.mark.parametrize(("height", "width", "box"), [(60, 60, (0, 0, 60, 60)), (60, 91, (0, 15, 60, 60))])
def test_the_middle_square(height: int, width: int, box: tuple[int, ...]) -> None:
    assert {*boxes(Crops(area=[1, 1], aspect=[1, 1]), height, width, 5)} == {Box(*box)}


def test_a_fixed_box_depends_on_the_name_and_its_number() -> None:
    crops = Crops(area=[0.2, 0.5], count=3)
    found = {crops.fixed(100, 100, name=name, number=number) for name in ("a", "b") for number in range(3)}
    assert len(found) == 6
    assert crops.fixed(100, 100, name="a", number=1) == crops.fixed(100, 100, name="a", number=1)


@pytest.mark.parametrize("arguments", [{"area": [0, 1]}, {"area": [0.5, 0.2]}, {"aspect": [2, 1]}, {"count": 0}])
def test_ranges_that_are_none(arguments: dict[str, list[float] | int]) -> None:
    with pytest.raises(ValueError, match="crops:"):
        Crops(**arguments)  # type: ignore[arg-type]


def test_what_is_cut_is_that_part_of_every_frame() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3)).astype(np.uint8)
    found = cut(frames, Box(2, 5, 16, 16), size=16)
    assert torch.equal(found, torch.from_numpy(frames[:, 2:18, 5:21]).permute(0, 3, 1, 2))
    assert cut(frames, Box(0, 0, 20, 20), size=7).shape == (3, 3, 7, 7)
