"""The tiny causal language model with a chat template, and a table of captions for it."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from common.random import generator
from projects.text_to_video.caption_report import TextLimit
from projects.text_to_video.clips import TABLE, Clip, write_clips
from projects.text_to_video.recaption import recaption
from projects.text_to_video.rewriter import Rewriter

ROOT = Path(__file__).resolve().parents[3]
LM = ROOT / "common/tiny/weights/causal_lm"
CLIP = ROOT / "common/tiny/weights/clip"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }} ; {% else %}"
    "user : {{ m['content'] }} {% endif %}{% endfor %}assistant :"
)
NOISE = 3.0  # in standard deviations
COLOURS = ("red", "green", "blue", "cyan", "yellow")
SHAPES = ("square", "ring", "cross", "triangle")


def write_chat(folder: Path, template: str = TEMPLATE) -> Path:
    """A folder of a model that answers chats.

    The shipped one says the same to all of them; with this noise on its weights it says another thing to each.
    """
    shutil.copytree(LM, folder)
    (folder / "chat_template.jinja").write_text(template)
    tensors = load_file(folder / "model.safetensors")
    for number, (name, tensor) in enumerate(sorted(tensors.items())):
        noise = torch.randn(tensor.shape, generator=generator("chat", number))
        tensors[name] = tensor + (NOISE * tensor.float().std() * noise).to(tensor.dtype) if tensor.ndim > 1 else tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def captions(count: int) -> list[str]:
    """Different captions of words that the model knows, of different lengths."""
    pairs = [f"a {colour} {shape} moves up" for colour, shape in itertools.product(COLOURS, SHAPES)]
    joined = itertools.chain(pairs, (f"{one} and {two}" for one, two in itertools.permutations(pairs, 2)))
    return list(itertools.islice(joined, count))


def write_table(folder: Path, texts: Sequence[str]) -> Path:
    clips = [Clip(id=f"{i}", video=f"{i}.mp4", caption=text, split="train") for i, text in enumerate(texts)]
    write_clips(folder / TABLE, clips)
    return folder


def rewriter(weights: Path, **changes: Any) -> Rewriter:
    settings: dict[str, Any] = {"instruction": "describe the video in {max_words} words", "max_words": 8}
    return Rewriter(weights=str(weights), **settings | {"dtype": "float32", "max_new_tokens": 12} | changes)


def run(model: Rewriter, table: Path, output: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"text": TextLimit(tokenizer=str(CLIP), max_tokens=9), "batch": 4, "devices": "cpu"}
    return recaption(table=str(table), output=str(output), rewriter=model, **settings | changes)
