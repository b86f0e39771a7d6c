"""Pixels against the image processors that the published models ship with (their Pillow backend)."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from common.config import build
from common.video.transform import resize, to_channels_first
from launchers.command import compose

SHAPES = [(360, 640), (240, 320), (1280, 720), (384, 384), (200, 100)]


def scene(height: int, width: int, *, low: int = 60, high: int = 195) -> NDArray[np.uint8]:
    """Edges, gradients and noise between two grey levels: uint8 (H, W, 3)."""
    rng = np.random.default_rng(height * width)
    y, x = np.mgrid[:height, :width]
    base = np.stack([x / width, y / height, (x // 23 + y // 17) % 2], axis=2)
    return np.clip(low + (high - low) * base + rng.integers(-20, 20, base.shape), 0, 255).astype(np.uint8)


def apart(theirs: object, ours: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Grey levels between two pictures."""
    return np.abs(np.asarray(theirs).astype(np.int64) - ours.astype(np.int64))


def same(theirs: object, ours: NDArray[np.uint8], *, exact: bool = False) -> bool:
    """One grey level apart at most, two in one place of 10,000: torch weighs pixels in 16 bits, Pillow in 32."""
    levels = apart(theirs, ours)
    return bool(levels.max() <= (0 if exact else 2) and (levels > 1).mean() < 1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_squashed_frames_are_those_of_siglip(shape: tuple[int, int]) -> None:
    frame = scene(*shape)
    processor = SiglipImageProcessorPil(size={"height": 384, "width": 384}, do_rescale=False, do_normalize=False)
    theirs = np.asarray(processor(frame, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    ours = resize(frame[None], 384, 384, "bicubic")[0]
    assert same(theirs, ours, exact=shape == (384, 384))
    assert apart(theirs, resize(frame[None], 384, 384, "bilinear")[0]).max() > 1 or shape == (384, 384)


@pytest.mark.parametrize("shape", SHAPES)
def test_squashed_frames_are_those_of_clip_without_its_crop(shape: tuple[int, int]) -> None:
    frame = scene(*shape)
    processor = CLIPImageProcessorPil(
        size={"height": 336, "width": 336}, do_center_crop=False, do_rescale=False, do_normalize=False
    )
    theirs = np.asarray(processor(frame, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    assert same(theirs, resize(frame[None], 336, 336, "bicubic")[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_from_black_to_white_are_cut_off_row_by_row(shape: tuple[int, int]) -> None:
    # Bicubic overshoots such edges and is cut off after each pass, so that the order of the passes shows. Ours is
    # rows first, as in torch; recent versions of Pillow take tall pictures by columns first.
    frame = scene(*shape, low=0, high=255)
    rows = Image.fromarray(frame).resize((384, shape[0]), Image.Resampling.BICUBIC)
    theirs = rows.resize((384, 384), Image.Resampling.BICUBIC)
    assert same(theirs, resize(frame[None], 384, 384, "bicubic")[0])


@pytest.mark.parametrize(
    ("model", "processor"), [("llava_video", SiglipImageProcessorPil()), ("llava_video_tiny", CLIPImageProcessorPil())]
)
def test_frames_are_normalised_as_the_tower_was_trained(
    model: str, processor: SiglipImageProcessorPil | CLIPImageProcessorPil
) -> None:
    cfg = compose("experiment=llava_video", f"model={model}", "paths.run=.")
    frame = scene(40, 40)
    steps = {"do_resize": False, "return_tensors": "np"} | ({"do_center_crop": False} if "tiny" in model else {})
    theirs = torch.tensor(np.asarray(processor(frame, **steps)["pixel_values"][0]))
    mean, std = (torch.tensor(list(values)).view(3, 1, 1) for values in (cfg.model.mean, cfg.model.std))
    ours = (to_channels_first(frame[None])[0] - mean * 255) / (std * 255)
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-5)
    assert build(cfg.data.train.plan).frames == 5
