"""Text to train the tiny language model on: logs of clips laid out like visual tokens, then questions and answers.

A log has one row for each frame and one for each cell of a grid. A row is a bag of words (what is there, and in
which column and row of the grid), and enters the model as the weighted sum of their embeddings. All of it is words:
no pixel and no feature of an encoder is involved.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from common.shapes_world.language import Question, ask
from common.shapes_world.scene import Scene, draw_scene
from common.tiny.words import CELLS, COLUMN_WORDS, ROW_WORDS

FRAMES, PATCHES = 16, CELLS * CELLS
ROWS = FRAMES + PATCHES
IGNORED = -100


@dataclass(frozen=True)
class Corpus:
    """Tokenised logs.

    Attributes:
        bags: float32 (N, ROWS, V), weights of words in each row.
        next_words: float32 (N, FRAMES, V), what a log says after the row of a frame; sums to 1, or to 0 for nothing.
        ids: int64 (N, L), with zeros where the rows go.
        labels: int64 (N, L), the id where a token is an answer, else -100.
        types: type of the first question of each log.
        start: place of the first row of the log.
    """

    bags: Tensor
    next_words: Tensor
    ids: Tensor
    labels: Tensor
    types: list[str]
    start: int


def make_corpus(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, split: str, logs: int, turns: int, names_weight: float
) -> Corpus:
    """Draws clips and writes down what happens in them.

    Args:
        tokenizer: of the model.
        seed: of the clips; not the one of a data set that is trained or judged on.
        split: whose pairs of colour and shape may occur.
        logs: number of clips.
        turns: questions after each log.
        names_weight: weight of colour and shape, against 1 for the direction, among the words that follow a row.
    """
    words = tokenizer.get_vocab()
    scenes = [draw_scene(seed=seed, split=split, index=index) for index in range(logs)]
    rng = np.random.default_rng([seed, logs])
    asked = [_questions(scene, rng)[:turns] for scene in scenes]
    opening: list[int] = tokenizer("USER: ").input_ids
    start = len(opening) + 1  # one more for the row that opens the log, as one opens a video
    encoded = [_encode(tokenizer, questions) for questions in asked]
    length = max(len(ids) for ids, _ in encoded) + start + ROWS + 1
    ids, labels = np.zeros((logs, length), np.int64), np.full((logs, length), IGNORED, np.int64)
    ids[:, : len(opening)] = opening
    for row, (tokens, answers) in enumerate(encoded):
        place = slice(start + ROWS + 1, start + ROWS + 1 + len(tokens))
        ids[row, place], labels[row, place] = tokens, answers
    return Corpus(
        bags=torch.from_numpy(np.stack([bag(scene, words) for scene in scenes])),
        next_words=torch.from_numpy(np.stack([following(scene, words, names_weight) for scene in scenes])),
        ids=torch.from_numpy(ids),
        labels=torch.from_numpy(labels),
        types=[questions[0].type for questions in asked],
        start=start,
    )


def bag(scene: Scene, words: dict[str, int]) -> NDArray[np.float32]:
    """The rows of a log, float32 (ROWS, V): frames in order, then cells from the top left.

    A frame's row names each thing, its column and its row; between two cells both are named, in proportion. A cell's
    row names what was there, in proportion to the time it was.
    """
    rows = np.zeros((ROWS, len(words)), np.float32)
    for thing in scene.things:
        time = np.arange(thing.first, thing.end)
        x, y = thing.position(time.astype(np.float64), size=scene.size)
        columns, lines = (_share_of_cells(at * CELLS / scene.size) for at in (x, y))
        for name in (thing.colour, thing.shape):
            rows[time, words[name]] += 1
            rows[FRAMES:, words[name]] += (lines[:, :, None] * columns[:, None]).sum(0).ravel() * CELLS / FRAMES
        for cell in range(CELLS):
            rows[time, words[COLUMN_WORDS[cell]]] += columns[:, cell]
            rows[time, words[ROW_WORDS[cell]]] += lines[:, cell]
    return rows


def following(scene: Scene, words: dict[str, int], names_weight: float) -> NDArray[np.float32]:
    """What a log says after each frame: who is there and which way it moves; float32 (FRAMES, V)."""
    rows = np.zeros((FRAMES, len(words)), np.float32)
    for thing in scene.things:
        rows[thing.first + 1 : thing.end, words[thing.direction]] = 1.0
        rows[thing.first : thing.end, words[thing.colour]] = names_weight
        rows[thing.first : thing.end, words[thing.shape]] = names_weight
    return np.asarray(rows / np.maximum(rows.sum(1, keepdims=True), 1e-6), dtype=np.float32)


def _share_of_cells(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of the two nearest cells on a torus: (T,) in cells to (T, CELLS)."""
    left = np.floor(place - 0.5).astype(np.int64)
    share = place - 0.5 - left
    shares = np.zeros((len(place), CELLS))
    shares[np.arange(len(place)), left % CELLS] += 1 - share
    shares[np.arange(len(place)), (left + 1) % CELLS] += share
    return shares


def _questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """All that can be asked about a scene, in random order."""
    asked = [ask(kind, scene, thing, rng) for kind in ("colour", "shape", "direction") for thing in scene.things]
    asked.append(ask("count", scene, scene.things[0], rng))
    if len(scene.things) > 1:
        asked += [ask("order", scene, scene.things[0], rng) for _ in range(2)]
    return [asked[index] for index in rng.permutation(len(asked))]


def _encode(tokenizer: PreTrainedTokenizerFast, questions: list[Question]) -> tuple[list[int], list[int]]:
    """Ids and labels of what follows a log."""
    ids: list[int] = []
    labels: list[int] = []
    for number, asked in enumerate(questions):
        opening = "USER: " if number else "\n"
        prompt = tokenizer(f"{opening}{asked.question} ASSISTANT:", add_special_tokens=False).input_ids
        answer = tokenizer(f" {asked.answer}</s>", add_special_tokens=False).input_ids
        ids += [*prompt, *answer]
        labels += [IGNORED] * len(prompt) + answer
    return ids, labels
