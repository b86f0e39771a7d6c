"""A CLIP of 0.3 M parameters that lacks visual detail, as those trained on captions of the web do.

Its captions name colour and shape. In a first phase some tell size, number and place too, and both towers learn what
the words mean. In the second none does and the text tower rests: words keep their meaning, and what they stand for
fades from the embeddings of pictures. Colour and shape stay near certain; pairs of pictures that differ in a detail are
often confused.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, PreTrainedTokenizerFast

from common.random import mix
from common.shapes_world.language import plain_captions
from common.shapes_world.pairs import DETAILS, describe, draw_pair
from common.shapes_world.scene import BACKGROUND, RADIUS, SHAPES, Thing
from common.tiny import clip
from common.tiny.clip import Drawn, build, fit, preprocessor
from common.tiny.folder import finished, save
from common.tiny.pictures import GROUP, NAMES, Batch, draw_single, paint_batch
from common.tiny.words import build_tokenizer

TITLE = "Tiny CLIP without detail"
TASK = "tiny_clip_coarse"
SIZE, PATCH = 32, 8
SHAPE_SHARE = 0.7  # of the runs of near doubles that differ in shape; the others differ in colour
TWO_SHARE = 0.25  # of the pictures that show two objects, but for those that would touch
PLACE_SHARE = 1 / 3  # of the captions with detail that tell the place alone
JUDGED_PAIRS = 498
JUDGED_PICTURES = 1000
JUDGED_SEED = 1_000_003  # of pairs that no data set holds


def train(
    *,
    folder: str | Path,
    seed: int = 0,
    width: int = 64,
    layers: int = 3,
    text_width: int = 64,
    text_layers: int = 2,
    steps: Sequence[int] = (1600, 1000),
    told: Sequence[float] = (0.5, 0.0),
    anywhere: Sequence[float] = (0.0, 0.3),
    words: Sequence[bool] = (True, False),
    batch: int = 128,
    lr: float = 2e-3,
    warmup: int = 50,
) -> dict[str, float]:
    """Trains the model and writes a Hugging Face folder, unless it is there.

    Args:
        folder: where the result goes.
        seed: of weights and pictures.
        width: of the vision tower.
        layers: of the vision tower.
        text_width: of the text tower and of the shared space.
        text_layers: of the text tower.
        steps: optimiser steps of each phase.
        told: share of captions with detail in each phase.
        anywhere: share of objects in each phase that may be cut by the edge; the others are whole.
        words: whether the text tower and its projection learn in each phase.
        batch: pictures a step, a multiple of `GROUP`.
        lr: highest learning rate of each phase; a cosine down to 0 follows the warm-up.
        warmup: steps of linear warm-up of each phase.

    Returns:
        Shares of new pictures that are right: pairs by detail ("pairs/size": 0.52, ...; chance is 1/4), "pairs", and
        "zero_shot/colour", "zero_shot/shape" of pictures of one object; "steps" and "seconds".

    Raises:
        ValueError: `folder` holds a model made with other settings.
    """
    settings = {key: value for key, value in locals().items() if key != "folder"}
    settings |= {"steps": list(steps), "told": list(told), "anywhere": list(anywhere), "words": list(words)}
    folder = Path(folder)
    if (scores := finished(folder, settings)) is not None:
        return scores
    began = time.monotonic()
    tokenizer = build_tokenizer(clip=True, max_length=clip.MAX_TOKENS)
    rng = np.random.default_rng(mix("tiny_clip_coarse", seed))
    sizes = {"width": width, "layers": layers, "text_width": text_width, "text_layers": text_layers}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("tiny_clip_coarse", seed))
        model = build(**sizes, words=len(tokenizer), size=SIZE, patch=PATCH)
        for count, share, edge, learn in zip(steps, told, anywhere, words, strict=True):

            def draw(share: float = share, edge: float = edge) -> Drawn:
                return draw_coarse(rng, count=batch, told=share, anywhere=edge)

            model.text_model.requires_grad_(learn)
            model.text_projection.requires_grad_(learn)
            fit(model, tokenizer, draw=draw, loss=loss_of_kinds, steps=count, lr=lr, warmup=warmup)
    scores = judge(model, tokenizer)
    scores |= {"steps": float(sum(steps)), "seconds": round(time.monotonic() - began, 1)}
    save(
        folder,
        model,
        tokenizer,
        settings=settings,
        scores=scores,
        title=TITLE,
        task=TASK,
        preprocessor=preprocessor(SIZE),
    )
    return scores


def draw_coarse(rng: np.random.Generator, *, count: int, told: float, anywhere: float) -> Drawn:
    """Pictures uint8 (count, SIZE, SIZE, 3) of one object or two equal ones, and their captions.

    Runs of `GROUP` differ in shape or colour, and in all that is not told; see `train` for the arguments.
    """
    step, runs = np.arange(count) % GROUP, -(-count // GROUP)
    colour, shape = (np.repeat(rng.integers(len(names), size=runs), GROUP)[:count] for names in (NAMES, SHAPES))
    by_shape = np.repeat(rng.random(runs) < SHAPE_SHARE, GROUP)[:count]
    shape = np.where(by_shape, (shape + step) % len(SHAPES), shape)
    colour = np.where(by_shape, colour, (colour + step) % len(NAMES))
    radius = np.asarray(RADIUS)[rng.integers(2, size=count)]
    x, y = rng.random((2, count, 2))
    whole = rng.random(count)[:, None] >= anywhere
    x, y = (np.where(whole, RADIUS[1] + place * (1 - 2 * RADIUS[1]), place) for place in (x, y))
    apart = np.hypot(x[:, 0] - x[:, 1], y[:, 0] - y[:, 1]) > 2.2 * radius
    two = (rng.random(count) < TWO_SHARE) & apart
    colours, shapes, radii = (np.stack([each, each], axis=1) for each in (colour, shape, radius))
    drawn = Batch(colour=colours, shape=shapes, radius=radii, x=x, y=y, two=two)
    chance = rng.random(count) / told if told else np.ones(count)
    captions = [_caption(drawn, row, chance=float(chance[row])) for row in range(count)]
    return paint_batch(drawn, rng.integers(*BACKGROUND, size=count), size=SIZE), captions


def _caption(drawn: Batch, row: int, *, chance: float) -> str:
    """What is said of a picture: below `PLACE_SHARE` its place, from there to 1 all detail, above that neither."""
    colour, shape = NAMES[drawn.colour[row, 0]], SHAPES[drawn.shape[row, 0]]
    if chance >= 1:
        return f"a {colour} {shape}"
    things = tuple(
        Thing(colour, shape, drawn.radius[row, k], drawn.x[row, k], drawn.y[row, k], "right", 0.0, 0, 1)
        for k in range(1 + int(drawn.two[row]))
    )
    full = describe(things)
    if chance >= PLACE_SHARE or len(things) > 1:
        return full
    return f"a {colour} {shape} at the {full.partition(' at the ')[2]}"


def loss_of_kinds(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, pictures: NDArray[np.uint8], captions: list[str]
) -> Tensor:
    """CLIP's loss on the K different captions of a batch, each as likely as it is frequent.

    K is far below the number of pictures here, which saves most of the text tower's work.
    """
    names = list(dict.fromkeys(captions))
    index = {name: number for number, name in enumerate(names)}
    number = torch.tensor([index[caption] for caption in captions])
    images, texts = clip.directions(model, tokenizer, pictures, names)
    same = functional.one_hot(number, len(names)).float()
    frequency = same.sum(dim=0)
    logits = images @ texts.T * model.logit_scale.exp()
    to_picture = functional.cross_entropy(logits.T, (same / frequency).T, reduction="none")
    to_text = functional.cross_entropy(logits + frequency.log(), number)
    return (to_text + (to_picture * frequency).sum() / len(captions)) / 2


@torch.no_grad()
def judge(model: CLIPModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Shares of pairs whose captions both find their picture, and of pictures whose colour and shape are found."""
    pairs = [draw_pair(seed=JUDGED_SEED, split="val", index=n) for n in range(JUDGED_PAIRS)]
    pictures = np.stack([picture for pair in pairs for picture in pair.draw(size=SIZE)])
    images, texts = clip.directions(model, tokenizer, pictures, [text for pair in pairs for text in pair.captions])
    table = images.view(len(pairs), 2, -1) @ texts.view(len(pairs), 2, -1).mT
    hits = (table[:, 0, 0] > table[:, 1, 0]) & (table[:, 1, 1] > table[:, 0, 1])
    scores = {"pairs": _share(hits)}
    for detail in DETAILS:
        scores[f"pairs/{detail}"] = _share(hits[[pair.detail == detail for pair in pairs]])
    shown, things = draw_single(
        np.random.default_rng(mix("tiny_clip_coarse", "judged")), count=JUDGED_PICTURES, size=SIZE
    )
    images, texts = clip.directions(model, tokenizer, shown, plain_captions())
    chosen = (images @ texts.T).argmax(dim=-1)
    right = {"colour": chosen // len(SHAPES), "shape": chosen % len(SHAPES)}
    truth = {"colour": things.colour[:, 0], "shape": things.shape[:, 0]}
    return scores | {f"zero_shot/{kind}": _share(right[kind] == torch.from_numpy(truth[kind])) for kind in right}


def _share(hits: Tensor) -> float:
    return round(float(hits.double().mean()), 3)
