"""Questions are well posed, their answers true and balanced."""

from collections import Counter
from functools import cache

import numpy as np
import pytest

from common.shapes_world.language import CLOSED, TYPES, Question, caption, place, questions
from common.shapes_world.scene import AXES, COLOURS, SHAPES, Scene, draw_scene

DRAWN = 4000


@cache
def asked(split: str = "test") -> list[tuple[Scene, Question]]:
    drawn = [draw_scene(seed=3, split=split, index=index) for index in range(DRAWN)]
    return [(scene, question) for scene in drawn for question in questions(scene, seed=3)]


def of_type(kind: str, split: str = "test") -> list[tuple[Scene, Question]]:
    return [(scene, question) for scene, question in asked(split) if question.type == kind]


def assert_balanced(counts: Counter[str], options: int, allowance: float = 0.0) -> None:
    total = sum(counts.values())
    assert len(counts) == options
    spread = 3.9 * np.sqrt(total * (1 / options) * (1 - 1 / options)) + allowance * total
    assert all(abs(count - total / options) < spread for count in counts.values()), counts


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", ["colour", "shape", "count"])
def test_answers_of_a_type_are_balanced(kind: str, split: str) -> None:
    # Leaving pairs out of training costs four of six colours one of their four shapes.
    allowance = 0.03 if split == "train" and kind == "colour" else 0.0
    assert_balanced(Counter(question.answer for _, question in of_type(kind, split)), len(CLOSED[kind]), allowance)


def test_direction_is_a_coin_toss_whatever_the_axis_and_the_order_of_the_options() -> None:
    for axis in AXES:
        rows = [question for scene, question in of_type("direction") if question.answer in axis]
        assert_balanced(Counter(question.answer for question in rows), 2)
        first = [min(axis, key=question.question.rfind) == question.answer for question in rows]
        assert_balanced(Counter(map(str, first)), 2)
        assert all(word in question.question for question in rows for word in axis)


def test_order_is_a_coin_toss_whatever_the_order_of_the_options() -> None:
    rows = of_type("order")
    named_first = []
    for scene, question in rows:
        names = [thing.name for thing in scene.things]
        assert question.answer.removeprefix("the ") in names
        other = next(name for name in names if name not in question.answer)
        named_first.append(question.question.find(question.answer) < question.question.find(f"the {other}"))
    assert_balanced(Counter(map(str, named_first)), 2)


def test_answers_are_true_and_the_question_names_one_thing() -> None:
    for scene, question in asked():
        named = [thing for thing in scene.things if thing.name in question.question]
        if question.type == "direction":
            assert [thing.direction for thing in named] == [question.answer]
        elif question.type == "order":
            earliest = min(scene.things, key=lambda thing: thing.first)
            latest = max(scene.things, key=lambda thing: thing.end)
            assert question.answer == f"the {earliest.name}"
            assert earliest is not latest
        elif question.type == "colour":
            (thing,) = [thing for thing in scene.things if thing.shape in question.question]
            assert question.answer == thing.colour
        elif question.type == "shape":
            (thing,) = [thing for thing in scene.things if thing.colour in question.question]
            assert question.answer == thing.shape
        else:
            assert question.answer == ("one", "two")[len(scene.things) - 1]


def test_the_right_answer_is_one_of_the_choices_and_the_question_names_those_that_are_not_closed() -> None:
    for _, question in asked():
        assert question.choices.count(question.answer) == 1
        assert len(set(question.choices)) == question.options
        if question.type not in CLOSED:
            assert all(choice in question.question for choice in question.choices)


def test_novel_rows_concern_held_out_pairs() -> None:
    assert not any(question.novel for _, question in asked("train"))
    for kind in TYPES:
        rows = of_type(kind)
        share = sum(question.novel for _, question in rows) / len(rows)
        assert 0.1 < share < 0.4
    for scene, question in of_type("direction"):
        (thing,) = [thing for thing in scene.things if thing.name in question.question]
        assert question.novel == thing.held_out


def test_every_type_is_frequent_in_the_default_test_split() -> None:
    drawn = [draw_scene(seed=0, split="test", index=index) for index in range(500)]
    counts = Counter(question.type for scene in drawn for question in questions(scene, seed=0))
    assert set(counts) == set(TYPES)
    assert min(counts.values()) >= 150
    assert sum(counts.values()) >= 1300


def test_captions_and_places() -> None:
    for scene, _ in asked()[:300]:
        text = caption(scene)
        assert all(f"a {thing.name} moves {thing.direction}" in text for thing in scene.things)
        assert ("appears first" in text) == (len(scene.things) == 2)
    assert place(1, 1, size=64) == "top far left"
    assert place(63.9, 40, size=64) == "lower far right"
    assert {len(COLOURS), len(SHAPES)} == {6, 4}
