"""What a clip shows gives nothing away of what only its order in time should tell."""

from functools import cache

import numpy as np
import pytest

from common.shapes_world.scene import AXES, COLOURS, DIRECTIONS, HELD_OUT, SHAPES, Scene, Thing, draw_scene

DRAWN = 6000
BINS = 8


@cache
def scenes() -> list[Scene]:
    return [draw_scene(seed=5, split="test", index=index) for index in range(DRAWN)]


def things() -> list[tuple[Scene, Thing]]:
    return [(scene, thing) for scene in scenes() for thing in scene.things]


def z_of_share(hits: int, total: int, expected: float = 0.5) -> float:
    """Standard deviations between a count and what a coin would give."""
    return (hits - total * expected) / np.sqrt(total * expected * (1 - expected))


def assert_independent(table: np.ndarray) -> None:
    """Chi-squared test that rows and columns of a table of counts are independent."""
    table = table[:, table.sum(0) > 0]
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    statistic = ((table - expected) ** 2 / expected).sum()
    # Wilson and Hilferty: the cube root of chi-squared over its freedom is nearly normal.
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / np.sqrt(2 / (9 * freedom))
    assert z < 3.9, f"chi-squared {statistic:.1f} at {freedom} degrees of freedom"


def table_of(axis: int, at: str, objects: int) -> np.ndarray:
    """Counts by direction (two rows) and by place along the motion (columns)."""
    table = np.zeros((2, BINS))
    for scene, thing in things():
        if thing.direction not in AXES[axis] or len(scene.things) != objects:
            continue
        visible = np.arange(thing.first, thing.end, dtype=np.float64)
        place = thing.position(visible, size=scene.size)[axis]
        value = {"middle frame": thing.position(scene.frames // 2, size=scene.size)[axis], "mean": place.mean()}[at]
        table[AXES[axis].index(thing.direction), int(value * BINS / scene.size)] += 1
    return table


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_mean_place_does_not_tell_the_direction(axis: int, objects: int) -> None:
    table = table_of(axis, "mean", objects)
    assert table.sum() > DRAWN / 5
    assert_independent(table)


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_middle_frame_hardly_tells_the_direction(axis: int, objects: int) -> None:
    # The middle frame is half a frame off the middle of the time, and further off that of an object's visible time.
    table = table_of(axis, "middle frame", objects)
    assert table.max(0).sum() / table.sum() < 0.6


def test_the_leak_test_sees_a_leak() -> None:
    # With walls an object that starts at the left can only move right: the same test must say so.
    rng = np.random.default_rng(0)
    table = np.zeros((2, BINS))
    for _ in range(1000):
        direction = int(rng.integers(2))
        start = rng.uniform(12, 32) + 20 * (1 - direction)
        table[direction, int(start * BINS / 64)] += 1
    with pytest.raises(AssertionError, match="chi-squared"):
        assert_independent(table)
    assert table.max(0).sum() / table.sum() > 0.6


def test_two_things_are_visible_for_equally_long_and_both_in_the_middle() -> None:
    for scene in scenes():
        if len(scene.things) == 2:
            one, two = scene.things
            assert one.end - one.first == two.end - two.first == 10
            assert abs(one.first - two.first) >= 3
            for middle in (scene.frames // 2, (scene.frames - 1) // 2):
                assert all(thing.first <= middle < thing.end for thing in scene.things)
            assert all(thing.first >= 0 and thing.end <= scene.frames for thing in scene.things)


def test_place_in_the_middle_frame_does_not_tell_the_order() -> None:
    table = np.zeros((2, BINS))
    for scene in scenes():
        if len(scene.things) == 2:
            one, two = scene.things
            place = one.position(scene.frames // 2, size=scene.size)[0]
            table[int(one.first < two.first), int(place * BINS / scene.size)] += 1
    assert_independent(table)


@pytest.mark.parametrize("attribute", ["radius", "speed"])
def test_size_and_speed_do_not_tell_the_order(attribute: str) -> None:
    pairs = [scene.things for scene in scenes() if len(scene.things) == 2]
    larger = [getattr(one, attribute) > getattr(two, attribute) for one, two in pairs]
    first = [one.first < two.first for one, two in pairs]
    agree = sum(a == b for a, b in zip(larger, first, strict=True))
    assert abs(z_of_share(agree, len(pairs))) < 3.9


def test_unordered_frames_are_as_likely_under_reversed_time() -> None:
    # Under reversal a thing that enters at frame a leaves at T - a: starts must be symmetric in that sense.
    starts = [thing.first for scene, thing in things() if len(scene.things) == 2]
    length = 10
    counts = np.bincount(starts, minlength=16 - length + 1)
    for early, late in zip(counts, counts[::-1], strict=True):
        assert abs(z_of_share(int(early), int(early + late))) < 3.9


def test_one_or_two_and_each_direction_are_equally_frequent() -> None:
    assert abs(z_of_share(sum(len(scene.things) == 2 for scene in scenes()), DRAWN)) < 3.9
    directions = [thing.direction for _, thing in things()]
    for direction in DIRECTIONS:
        assert abs(z_of_share(directions.count(direction), len(directions), 0.25)) < 3.9


def test_two_things_differ_in_all_and_move_along_different_axes() -> None:
    for scene in scenes():
        if len(scene.things) == 2:
            one, two = scene.things
            assert one.colour != two.colour
            assert one.shape != two.shape
            assert (one.direction in AXES[0]) != (two.direction in AXES[0])


def test_held_out_pairs_are_absent_from_training_and_frequent_in_test() -> None:
    trained = [draw_scene(seed=5, split="train", index=index) for index in range(2000)]
    assert not any(scene.held_out for scene in trained)
    pairs = {(thing.colour, thing.shape) for scene in trained for thing in scene.things}
    assert len(pairs) == len(COLOURS) * len(SHAPES) - len(HELD_OUT)
    share = sum(thing.held_out for _, thing in things()) / len(things())
    assert abs(share - len(HELD_OUT) / 24) < 0.02


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    assert draw_scene(seed=1, split="val", index=7) == draw_scene(seed=1, split="val", index=7)
    others = [("val", 1, 8), ("train", 1, 7), ("val", 2, 7)]
    assert all(
        draw_scene(seed=seed, split=split, index=index).things != draw_scene(seed=1, split="val", index=7).things
        for split, seed, index in others
    )


@pytest.mark.parametrize(("frames", "size"), [(8, 32), (16, 64), (64, 64)])
def test_other_lengths_keep_the_rules(frames: int, size: int) -> None:
    for index in range(200):
        scene = draw_scene(seed=0, split="test", index=index, frames=frames, size=size)
        for thing in scene.things:
            assert thing.first <= (frames - 1) // 2
            assert frames // 2 < thing.end <= frames
            assert 0 < thing.speed * frames < size  # less than once around


def test_unknown_split_and_too_few_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of"):
        draw_scene(seed=0, split="dev", index=0)
    with pytest.raises(ValueError, match="at least 8"):
        draw_scene(seed=0, split="val", index=0, frames=4)
