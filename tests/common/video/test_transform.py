"""Transforms: uint8 in, uint8 out, the same for every frame of a clip."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from common.video import transform


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [(360, 640, 224, 224), (64, 96, 224, 224), (65, 99, 33, 50), (7, 1000, 3, 999)])
def test_nearest_is_torch_on_floats_then_truncation(size: tuple[int, int, int, int]) -> None:
    height, width, new_height, new_width = size
    frames = noise(2, height, width, 3)
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    expected = functional.interpolate(planes, size=(new_height, new_width), mode="nearest").to(torch.uint8)
    resized = transform.resize(frames, new_height, new_width, "nearest")
    np.testing.assert_array_equal(resized, expected.permute(0, 2, 3, 1).numpy())


def test_nearest_agrees_with_torch_for_every_size() -> None:
    for source in range(1, 120, 7):
        line = torch.arange(source, dtype=torch.float32).reshape(1, 1, 1, source)
        for target in range(1, 260):
            expected = functional.interpolate(line, size=(1, target), mode="nearest")[0, 0, 0].long()
            assert transform._nearest(source, target).tolist() == expected.tolist(), (source, target)


@pytest.mark.parametrize(
    ("mode", "kernel"), [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)]
)
@pytest.mark.parametrize("size", [(20, 30), (150, 200)])
def test_antialiased_modes_agree_with_pillow(mode: transform.Mode, kernel: int, size: tuple[int, int]) -> None:
    frames = noise(2, 60, 90, 3)
    resized = transform.resize(frames, *size, mode)
    expected = np.stack([np.array(Image.fromarray(f).resize(size[::-1], kernel)) for f in frames])
    assert np.abs(resized.astype(int) - expected).max() <= 2  # both round between their two passes


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest"])
def test_resize_keeps_type_layout_and_constants(mode: transform.Mode) -> None:
    frames = np.full((3, 40, 60, 3), 200, np.uint8)
    resized = transform.resize(frames, 17, 23, mode)
    assert (resized.shape, resized.dtype) == ((3, 17, 23, 3), np.uint8)
    assert (resized == 200).all()


def test_resize_to_the_same_size_changes_nothing() -> None:
    frames = noise(2, 8, 9, 3)
    np.testing.assert_array_equal(transform.resize(frames, 8, 9), frames)


def test_frames_are_resized_independently() -> None:
    frames = noise(3, 40, 60, 3)
    together = transform.resize(frames, 16, 16)
    for i in range(3):
        np.testing.assert_array_equal(together[i], transform.resize(frames[i : i + 1], 16, 16)[0])


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(360, 640, (224, 398)), (96, 64, (336, 224)), (50, 50, (224, 224))]
)
def test_short_side(height: int, width: int, expected: tuple[int, int]) -> None:
    assert transform.resize_short_side(noise(1, height, width, 3), 224).shape[1:3] == expected


def test_center_crop() -> None:
    frames = noise(2, 9, 8, 3)
    np.testing.assert_array_equal(transform.center_crop(frames, 4, 4), frames[:, 2:6, 2:6])
    np.testing.assert_array_equal(transform.center_crop(frames, 9, 8), frames)


def test_random_crop_is_one_part_of_the_whole_clip_and_a_function_of_the_seed() -> None:
    frames = np.broadcast_to(noise(1, 20, 20, 3), (4, 20, 20, 3))
    parts = [transform.random_crop(frames, 8, 8, generator=torch.Generator().manual_seed(s)) for s in range(40)]
    for part in parts:
        assert all(np.array_equal(part[0], frame) for frame in part)
    again = transform.random_crop(frames, 8, 8, generator=torch.Generator().manual_seed(3))
    np.testing.assert_array_equal(again, parts[3])
    assert len({part.tobytes() for part in parts}) > 20


def test_random_crop_reaches_every_place() -> None:
    frames = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    generator = torch.Generator().manual_seed(0)
    firsts = {int(transform.random_crop(frames, 2, 2, generator=generator)[0, 0, 0, 0]) for _ in range(100)}
    assert firsts == {0, 1, 3, 4}


def test_flip_mirrors_the_whole_clip_or_nothing() -> None:
    frames = noise(3, 4, 6, 3)
    generator = torch.Generator().manual_seed(0)
    np.testing.assert_array_equal(
        transform.horizontal_flip(frames, probability=1, generator=generator), frames[:, :, ::-1]
    )
    np.testing.assert_array_equal(transform.horizontal_flip(frames, probability=0, generator=generator), frames)
    share = np.mean(
        [transform.horizontal_flip(frames, probability=0.25, generator=generator) is not frames for _ in range(400)]
    )
    assert 0.18 < share < 0.32


def test_channels_first() -> None:
    frames = noise(2, 4, 6, 3)
    planes = transform.to_channels_first(frames)
    assert (planes.shape, planes.dtype, planes.is_contiguous()) == ((2, 3, 4, 6), torch.uint8, True)
    np.testing.assert_array_equal(planes.numpy(), frames.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda f: transform.resize(f.astype(np.float32), 4, 4),
        lambda f: transform.resize(f[0], 4, 4),
        lambda f: transform.resize(f, 0, 4),
        lambda f: transform.resize(f, 4, 4, "area"),
        lambda f: transform.center_crop(f, 11, 4),
        lambda f: transform.random_crop(f, 4, 13, generator=torch.Generator()),
        lambda f: transform.horizontal_flip(f, probability=2, generator=torch.Generator()),
    ],
)
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(ValueError, match=r"frames must|the modes are|resize them first|probability"):
        call(noise(2, 10, 12, 3))  # type: ignore[operator]
