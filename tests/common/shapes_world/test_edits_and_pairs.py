"""Edits need the motion of the history; pairs differ in one detail."""

from collections import Counter

import numpy as np
import pytest

from common.shapes_world.edits import INSTRUCTIONS, Edit, draw_edits
from common.shapes_world.pairs import DETAILS, Pair, draw_pair
from common.shapes_world.scene import COLOURS, DIRECTIONS, HELD_OUT


def edits(split: str = "test", count: int = 400) -> list[tuple[Edit, Edit]]:
    return [draw_edits(seed=6, split=split, index=index, size=64, frames=20, lead=4) for index in range(count)]


def centre(picture: np.ndarray, colour: str) -> np.ndarray:
    rows, columns = np.nonzero(np.abs(picture.astype(int) - np.array(COLOURS[colour])).max(-1) < 8)
    turn = np.exp(2j * np.pi * (np.stack([columns, rows]) + 0.5) / 64).mean(1)
    return np.angle(turn) / (2 * np.pi) * 64 % 64


def test_the_target_follows_from_the_motion_and_the_instruction() -> None:
    kinds: Counter[str] = Counter()
    for pair in edits(count=120):
        for edit in pair:
            kinds[edit.kind] += 1
            last = centre(edit.history(size=64)[-1], edit.thing.colour)
            moved = (centre(edit.target(size=64), edit.colour) - last + 32) % 64 - 32
            sign = -1 if edit.kind == "return" else 1
            expected = sign * 4 * edit.thing.speed * np.array(DIRECTIONS[edit.thing.direction])
            assert np.abs(moved - expected).max() < 2.0
            assert (edit.colour != edit.thing.colour) == (edit.kind == "recolour")
            assert edit.thing.shape in edit.instruction
    assert min(kinds[kind] for kind in INSTRUCTIONS) > 50


def test_the_last_frame_alone_does_not_tell_where_it_goes() -> None:
    # Same last place, all four directions: the history is needed. Measured as direction against place.
    table = np.zeros((2, 8))
    for one, _ in edits(count=4000):
        if one.thing.direction in ("left", "right"):
            place = float(one.thing.position(19.0, size=64)[0])
            table[int(one.thing.direction == "left"), int(place / 8)] += 1
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 29  # chi-squared, 7 degrees of freedom, 1 in 10,000


def test_the_two_instructions_of_a_history_differ_and_training_never_shows_held_out_pairs() -> None:
    for one, two in edits("train"):
        assert one.thing == two.thing
        assert one.kind != two.kind
        assert not one.novel
        assert not two.novel
    assert any(edit.novel for pair in edits("test") for edit in pair)


def pairs(split: str = "test", count: int = 600) -> list[Pair]:
    return [draw_pair(seed=6, split=split, index=index) for index in range(count)]


@pytest.mark.parametrize("detail", DETAILS)
def test_a_pair_differs_in_its_detail_alone(detail: str) -> None:
    found = [pair for pair in pairs() if pair.detail == detail]
    assert len(found) == 100
    for pair in found:
        if detail == "count":
            few, many = sorted(pair.pictures, key=len)
            assert (len(few), len(many)) == (1, 2)
            assert few[0] in many
            continue
        (one,), (two,) = pair.pictures
        differing = {
            name for name in ("colour", "shape", "radius", "x", "y") if getattr(one, name) != getattr(two, name)
        }
        assert differing <= {"position": {"x", "y"}, "mirror": {"x"}, "size": {"radius"}}.get(detail, {detail})
        assert differing
        if detail == "mirror":
            assert one.x + two.x == pytest.approx(1)


def test_pictures_and_captions_differ_and_the_first_is_no_hint() -> None:
    large_first = Counter[bool]()
    for pair in pairs():
        first, second = pair.draw(size=64)
        assert (np.abs(first.astype(int) - second).max(-1) > 60).sum() > 20
        assert pair.captions[0] != pair.captions[1]
        if pair.detail == "size":
            large_first["large" in pair.captions[0]] += 1
    assert min(large_first.values()) > 30


def test_captions_of_a_pair_name_what_differs() -> None:
    for pair in pairs():
        one, two = ([word.rstrip("s") for word in text.split()] for text in pair.captions)
        if pair.detail in ("colour", "shape", "size"):
            assert sum(a != b for a, b in zip(one, two, strict=True)) == 1
        if pair.detail == "mirror":
            assert set(one) ^ set(two) == {"left", "right"}


def test_held_out_pairs_are_absent_from_training() -> None:
    assert not any(pair.novel for pair in pairs("train"))
    assert any(pair.novel for pair in pairs("test"))
    assert len(HELD_OUT) == 4
