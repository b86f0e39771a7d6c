"""A CLIP of 1.0 M parameters, trained on captioned pictures of the built-in world in a few minutes on two cores."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from common.progress import track
from common.random import mix
from common.shapes_world.language import COLUMNS, ROWS
from common.shapes_world.scene import COLOURS, SHAPES
from common.tiny.folder import finished, save
from common.tiny.pictures import draw_batch, draw_single
from common.tiny.words import CLIP_SPECIAL, build_tokenizer

TITLE = "Tiny CLIP of the built-in world"
TASK = "tiny_clip"
SIZE, PATCH = 64, 16
MAX_TOKENS = 32
HEAD_WIDTH = 32
MAX_SCALE = 100.0  # of the logits (arXiv:2103.00020, section 2.5)
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of OpenAI's CLIP, on pixels in 0..1
STD = (0.26862954, 0.26130258, 0.27577711)
JUDGED_PICTURES = 1200
Drawn = tuple[NDArray[np.uint8], list[str]]  # pictures (B, H, W, 3) and their captions
Loss = Callable[[CLIPModel, PreTrainedTokenizerFast, NDArray[np.uint8], list[str]], Tensor]


def preprocessor(size: int) -> dict[str, Any]:
    """Content of preprocessor_config.json for pictures of `size` pixels."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "do_convert_rgb": True,
    }


def build(
    *,
    width: int,
    layers: int,
    text_width: int,
    text_layers: int,
    words: int,
    size: int = SIZE,
    patch: int = PATCH,
) -> CLIPModel:
    """The untrained model. The vision tower is `width` wide, the text tower and the shared space `text_width`."""
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD_WIDTH,
        "image_size": size,
        "patch_size": patch,
        "projection_dim": text_width,
    }
    text = {
        "hidden_size": text_width,
        "intermediate_size": 4 * text_width,
        "num_hidden_layers": text_layers,
        "num_attention_heads": text_width // HEAD_WIDTH,
        "max_position_embeddings": MAX_TOKENS,
        "vocab_size": words,
        "projection_dim": text_width,
        "pad_token_id": CLIP_SPECIAL.index("<pad>"),
        "bos_token_id": CLIP_SPECIAL.index("<s>"),
        "eos_token_id": CLIP_SPECIAL.index("</s>"),
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=text_width))
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.weight[1:] = _places(size // patch, width)
    return model


def _places(cells: int, width: int) -> Tensor:
    """Position embeddings (cells * cells, width): sines and cosines of column and row, in random directions.

    From the usual random start the model does not learn within minutes where things are.
    """
    angle = 2 * math.pi * (torch.arange(cells) + 0.5) / cells
    waves = torch.stack([angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()], dim=1)
    rows, columns = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    both = torch.cat([waves[columns.flatten()], waves[rows.flatten()]], dim=1)
    return both @ torch.randn(both.shape[1], width) / math.sqrt(both.shape[1])


def train(
    *,
    folder: str | Path,
    seed: int = 0,
    width: int = 128,
    layers: int = 4,
    text_width: int = 64,
    text_layers: int = 2,
    steps: int = 1100,
    batch: int = 128,
    lr: float = 1e-3,
    warmup: int = 50,
) -> dict[str, float]:
    """Trains the model and writes a Hugging Face folder, unless it is there.

    The loss is CLIP's (arXiv:2103.00020, figure 3), but equal captions in a batch are all right for each other.

    Args:
        folder: where the result goes.
        seed: of weights and pictures.
        width: of the vision tower.
        layers: of the vision tower.
        text_width: of the text tower and of the shared space.
        text_layers: of the text tower.
        steps: optimiser steps.
        batch: pictures a step.
        lr: highest learning rate; a cosine down to 0 follows the warm-up.
        warmup: steps of linear warm-up.

    Returns:
        Zero-shot accuracy on new pictures of one object ("zero_shot/shape": 0.97, ...; chance is 1/6 for the colour,
        1/4 for the shape, 1/16 for the place), "steps" and "seconds".

    Raises:
        ValueError: `folder` holds a model made with other settings.
    """
    settings = {key: value for key, value in locals().items() if key != "folder"}
    folder = Path(folder)
    if (scores := finished(folder, settings)) is not None:
        return scores
    began = time.monotonic()
    tokenizer = build_tokenizer(clip=True, max_length=MAX_TOKENS)
    rng = np.random.default_rng(mix("tiny_clip", seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("tiny_clip", seed))
        model = build(width=width, layers=layers, text_width=text_width, text_layers=text_layers, words=len(tokenizer))
        fit(
            model,
            tokenizer,
            draw=lambda: draw_batch(rng, count=batch, size=SIZE),
            loss=loss_of_copies,
            steps=steps,
            lr=lr,
            warmup=warmup,
        )
    scores = {f"zero_shot/{kind}": value for kind, value in zero_shot(model, tokenizer).items()}
    scores |= {"steps": float(steps), "seconds": round(time.monotonic() - began, 1)}
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


def fit(
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    draw: Callable[[], Drawn],
    loss: Loss,
    steps: int,
    lr: float,
    warmup: int,
) -> None:
    """Trains a model in place; the arguments are those of `train`, and where pictures and their loss come from."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    for step in track(range(steps), description="tiny CLIP"):
        for group in optimiser.param_groups:
            group["lr"] = lr * min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimiser.zero_grad()
        torch.autograd.backward(loss(model, tokenizer, *draw()))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(MAX_SCALE))


def normalise(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) to the float32 (B, 3, H, W) that the vision tower reads."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def directions(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, pictures: NDArray[np.uint8], captions: list[str]
) -> tuple[Tensor, Tensor]:
    """Unit vectors of pictures and captions in the shared space, (B, D) each."""
    seen = model.vision_model(pixel_values=normalise(pictures)).pooler_output
    words = tokenizer(captions, padding=True, return_tensors="pt")
    read = model.text_model(input_ids=words.input_ids, attention_mask=words.attention_mask).pooler_output
    images, texts = model.visual_projection(seen), model.text_projection(read)
    return functional.normalize(images, dim=-1), functional.normalize(texts, dim=-1)


def loss_of_copies(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, pictures: NDArray[np.uint8], captions: list[str]
) -> Tensor:
    """CLIP's loss, in which equal captions are all right for each other's pictures."""
    images, texts = directions(model, tokenizer, pictures, captions)
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    number = torch.tensor([numbers[caption] for caption in captions])
    same = (number[:, None] == number).float()
    wanted = same / same.sum(dim=1, keepdim=True)
    logits = images @ texts.T * model.logit_scale.exp()
    return (functional.cross_entropy(logits, wanted) + functional.cross_entropy(logits.T, wanted)) / 2


@torch.no_grad()
def zero_shot(model: CLIPModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Share of new pictures whose caption beats those with another colour, shape or place."""
    pictures, things = draw_single(np.random.default_rng(mix("tiny_clip, judged")), count=JUDGED_PICTURES, size=SIZE)
    cells = [f"{row} {column}" for row in ROWS for column in COLUMNS]
    names = [(colour, shape, cell) for colour in COLOURS for shape in SHAPES for cell in cells]
    captions = [f"a {colour} {shape} at the {cell}" for colour, shape, cell in names]
    images, texts = directions(model, tokenizer, pictures, captions)
    table = (images @ texts.T).reshape(-1, len(COLOURS), len(SHAPES), len(cells))
    place = torch.from_numpy(things.cell())
    row = torch.arange(len(pictures))
    colour, shape = torch.from_numpy(things.colour[:, 0]), torch.from_numpy(things.shape[:, 0])
    hits = {
        "colour": table[row, :, shape, place].argmax(-1) == colour,
        "shape": table[row, colour, :, place].argmax(-1) == shape,
        "place": table[row, colour, shape].argmax(-1) == place,
    }
    return {kind: round(float(hit.double().mean()), 3) for kind, hit in hits.items()}
