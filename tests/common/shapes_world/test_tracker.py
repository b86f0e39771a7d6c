"""What was drawn is found again, in clean pictures and in blurred and noisy ones."""

import io
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from common.shapes_world.edits import draw_edits
from common.shapes_world.render import render
from common.shapes_world.scene import draw_scene
from common.shapes_world.tracker import Found, direction_of, find, track

Picture = NDArray[np.uint8]


def noisy(picture: Picture, sigma: float) -> Picture:
    noise = np.random.default_rng(int(picture.sum())).normal(0, sigma, picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


def blurred(picture: Picture, radius: float) -> Picture:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def compressed(picture: Picture, quality: int) -> Picture:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


SPOILED = {
    "clean": lambda picture: picture,
    "noise of 30": lambda picture: noisy(picture, 30),
    "blur of 1": lambda picture: blurred(picture, 1),
    "blur and noise": lambda picture: noisy(blurred(picture, 1), 15),
    "jpeg": lambda picture: compressed(picture, 50),
}


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("how", SPOILED)
def test_colour_shape_and_place_of_what_was_drawn(how: str, size: int) -> None:
    right, far = Counter[str](), 0.0
    for index in range(50):
        for edit in draw_edits(seed=3, split="test", index=index, size=size, frames=20, lead=4):
            (found,) = find(SPOILED[how](edit.target(size=size)))
            right["colour"] += found.colour == edit.colour
            right["shape"] += found.shape == edit.thing.shape
            x, y = edit.thing.position(19.0 + (-4 if edit.kind == "return" else 4), size=size)
            off = (np.array([found.x - x, found.y - y]) + size / 2) % size - size / 2
            far = max(far, float(np.hypot(*off)))
    assert right["colour"] == 100
    assert right["shape"] == 100 if how == "clean" or size == 64 else right["shape"] >= 95
    assert far < (0.2 if how == "clean" else 0.8)


def test_confidence_tells_a_drawn_object_from_a_smeared_one() -> None:
    edit, _ = draw_edits(seed=3, split="test", index=0, size=64, frames=20, lead=4)
    clean, smeared = find(edit.target(size=64))[0], find(blurred(edit.target(size=64), 4))[0]
    assert clean.confidence > 0.95 > 0.85 > smeared.confidence


@pytest.mark.parametrize("sigma", [0, 15])
def test_objects_of_clips_and_the_ways_they_go(sigma: float) -> None:
    objects = 0
    for index in range(25):
        scene = draw_scene(seed=5, split="test", index=index)
        clip = np.stack([noisy(frame, sigma) if sigma else frame for frame in render(scene)])
        tracks = {each.colour: each for each in track(clip)}
        assert set(tracks) == {thing.colour for thing in scene.things}
        for thing in scene.things:
            seen = tracks[thing.colour]
            assert seen.shape == thing.shape
            assert seen.direction == thing.direction
            assert seen.velocity is not None
            assert np.hypot(*seen.velocity) == pytest.approx(thing.speed, abs=0.1)
            assert [place is not None for place in seen.places] == [
                thing.first <= frame < thing.end for frame in range(scene.frames)
            ]
            objects += 1
    assert objects > 30


def test_an_object_that_leaves_on_one_side_and_enters_on_the_other_keeps_its_direction() -> None:
    edit = next(
        one
        for one, _ in (draw_edits(seed=1, split="test", index=i, size=64, frames=20, lead=4) for i in range(50))
        if one.thing.direction == "right" and one.thing.x + 19 * one.thing.speed > 70
    )
    (seen,) = track(edit.history(size=64))
    assert seen.direction == "right"


def test_nothing_is_found_where_nothing_is() -> None:
    grey = np.full((64, 64, 3), 30, np.uint8)
    assert find(grey) == []
    assert find(noisy(grey, 20)) == []
    assert track(np.stack([grey, grey])) == []


def test_what_stands_still_or_is_seen_once_has_no_direction() -> None:
    edit, _ = draw_edits(seed=3, split="test", index=0, size=64, frames=20, lead=4)
    frame, grey = edit.target(size=64), np.full((64, 64, 3), 30, np.uint8)
    assert track(np.stack([frame, frame]))[0].direction is None
    (once,) = track(np.stack([grey, frame, grey]))
    assert once.velocity is None
    assert [type(place) for place in once.places] == [type(None), Found, type(None)]


def test_directions_are_the_nearest() -> None:
    assert [direction_of(v) for v in ((2.0, 0.5), (-2.0, 1), (0.3, -1), (0, 3.0))] == ["right", "left", "up", "down"]
    assert direction_of((0.1, 0.1)) is None


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not float64 \(64, 64, 3\)"):
        find(np.zeros((64, 64, 3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(3, 64, 64\)"):
        find(np.zeros((3, 64, 64), np.uint8))
