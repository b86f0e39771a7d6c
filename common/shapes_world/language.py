"""Text about a scene: captions, and questions with their answers."""

from dataclasses import dataclass

import numpy as np

from common.shapes_world.scene import AXES, COLOURS, SHAPES, Scene, Thing, generator

TYPES = ("colour", "shape", "count", "direction", "order")
NUMBERS = ("one", "two")
CLOSED = {"colour": tuple(COLOURS), "shape": SHAPES, "count": NUMBERS}  # answers of the types whose questions name none
ROWS = ("top", "upper", "lower", "bottom")
COLUMNS = ("far left", "left", "right", "far right")

QUESTIONS = {
    "colour": ("What colour is the {thing}?", "Which colour does the {thing} have?"),
    "shape": ("What shape is the {thing}?", "Which shape does the {thing} have?"),
    "count": ("How many objects are there?", "How many objects does the video show?"),
    "direction": ("Does the {thing} move {a} or {b}?", "Which way does the {thing} go, {a} or {b}?"),
    "appear": ("Which appears first, the {a} or the {b}?", "Does the {a} or the {b} appear first?"),
    "vanish": ("Which vanishes first, the {a} or the {b}?", "Does the {a} or the {b} vanish first?"),
}
STATIC_SHARE = 0.5  # of the clips that get a question of each of the types colour, shape, count


def plain_captions() -> list[str]:
    """Captions that tell colour and shape alone: "a red ring", of every one of both."""
    return [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]


@dataclass(frozen=True)
class Question:
    """One question about one scene.

    Attributes:
        type: one of `TYPES`.
        question: what is asked.
        answer: the one right answer, word for word.
        novel: whether it concerns an object whose colour and shape never go together in training.
        choices: the answers that one guesses from who sees the question but not the video.
    """

    type: str
    question: str
    answer: str
    novel: bool
    choices: tuple[str, ...]

    @property
    def options(self) -> int:
        """How many answers there are to choose from."""
        return len(self.choices)


def place(x: float, y: float, *, size: int) -> str:
    """Cell of a 4x4 grid that holds a position: "top far left", "lower right"."""
    return f"{ROWS[int(y * len(ROWS) / size)]} {COLUMNS[int(x * len(COLUMNS) / size)]}"


def caption(scene: Scene) -> str:
    """One sentence: what is there, how it moves, and what comes first."""
    text = " and ".join(f"a {thing.name} moves {thing.direction}" for thing in scene.things)
    if len(scene.things) == 1:
        return text
    return f"{text}; the {earlier(scene).name} appears first"


def earlier(scene: Scene) -> Thing:
    """Of two things, the one that appears first; visible for as long, it vanishes first too."""
    return min(scene.things, key=lambda thing: thing.first)


def questions(scene: Scene, *, seed: int) -> list[Question]:
    """The questions about one scene, a function of (seed, split, index).

    Direction is asked of every clip and order of every clip with two objects; the rest of half of them.
    """
    rng = generator(seed, scene.split, scene.index, 1)
    asked = [kind for kind in ("colour", "shape", "count") if rng.random() < STATIC_SHARE] + ["direction"]
    if len(scene.things) == 2:
        asked.append("order")
    return [ask(kind, scene, scene.things[int(rng.integers(len(scene.things)))], rng) for kind in asked]


def ask(kind: str, scene: Scene, thing: Thing, rng: np.random.Generator) -> Question:
    """One question of a type about one thing of a scene ("count" and "order" are about all of it).

    Args:
        kind: one of `TYPES`; "order" only of two things.
        scene: what the clip shows.
        thing: one of its things.
        rng: chooses the wording and the order of the options.
    """
    if kind == "order":
        return _ask_order(scene, rng)
    wording = QUESTIONS[kind][int(rng.integers(2))]
    if kind == "count":
        return Question(kind, wording, NUMBERS[len(scene.things) - 1], scene.held_out, NUMBERS)
    if kind == "direction":
        options = AXES[0] if thing.direction in AXES[0] else AXES[1]
        a, b = (options[i] for i in rng.permutation(2))
        return Question(kind, wording.format(thing=thing.name, a=a, b=b), thing.direction, thing.held_out, (a, b))
    # The question names the other attribute: two things never share one.
    named, answer = (thing.shape, thing.colour) if kind == "colour" else (f"{thing.colour} object", thing.shape)
    return Question(kind, wording.format(thing=named), answer, thing.held_out, CLOSED[kind])


def _ask_order(scene: Scene, rng: np.random.Generator) -> Question:
    event = ("appear", "vanish")[int(rng.integers(2))]
    wording = QUESTIONS[event][int(rng.integers(2))]
    a, b = (scene.things[i].name for i in rng.permutation(2))
    answer = f"the {earlier(scene).name}"
    return Question("order", wording.format(a=a, b=b), answer, scene.held_out, (f"the {a}", f"the {b}"))
