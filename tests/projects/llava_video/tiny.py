"""What the tests of this folder share: a tokenizer that splits as Qwen's does, tiny models, files to look at, rows."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from common.optim import warmup_constant
from common.text.prompt import Template, llava_onevision, llava_qwen
from common.types import Pick
from common.video.plan import FramePlan, UniformFrames
from common.video.write import write_h264
from projects.llava_video.build import build_vlm
from projects.llava_video.data import LlavaBatch, VideoConversations
from projects.llava_video.families import PARTS, Family, Llava, LlavaOnevision
from projects.llava_video.module import LlavaVideo

# How Qwen's tokenizer cuts text before it joins bytes: line breaks that follow each other become one token.
CUTS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
WORDS = ["user\n\nWhat is it?", "assistant\n\nIt is a dog.", "assistant \nIt runs.", "user\nIs it red? Yes, it is."]
VOCABULARY = 330
SIZE, GRID = 42, 9  # side of a frame, patches of it (3 x 3): odd, so that halving rounds up

VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": 14,
    "vision_use_head": False,
}
TEXT: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
MEAN = STD = (0.5, 0.5, 0.5)
LORA = {"rank": 2, "alpha": 4}


def make_tokenizer(texts: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Byte pairs learned from a few lines; "\\n\\n" and " \\n" are one token each, as they are for Qwen."""
    backend = Tokenizer(models.BPE())
    cuts = pre_tokenizers.Split(Regex(CUTS), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([cuts, letters])  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    room = VOCABULARY - len(SPECIAL)
    trainer = trainers.BpeTrainer(vocab_size=room, initial_alphabet=alphabet, show_progress=False)  # type: ignore[call-arg]
    backend.train_from_iterator([*WORDS * 50, *texts], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.add_tokens(list(SPECIAL), special_tokens=True)
    assert tokenizer.tokenize("a\n\nb \nc") == ["a", "ĊĊ", "b", "ĠĊ", "c"]
    assert len(tokenizer) <= VOCABULARY
    return tokenizer


def family_of(name: str) -> tuple[Family, Template]:
    """A family and its prompt template."""
    return (Llava(), llava_qwen()) if name == "llava" else (LlavaOnevision(), llava_onevision())


def architecture(tokenizer: PreTrainedTokenizerFast, *, family: Family, **changes: Any) -> dict[str, Any]:
    """Arguments of the config class of a family."""
    index = tokenizer.convert_tokens_to_ids(family.patch)
    key = "image_token_index" if isinstance(family, Llava) else "video_token_index"
    whole = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    return whole | {"vision_config": VISION, "text_config": TEXT, key: index} | changes


def make_module(
    tokenizer: PreTrainedTokenizerFast,
    *,
    name: str = "llava",
    train: Sequence[str] = PARTS,
    adapters: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    weight_decay: float = 0.0,
    lr: Mapping[str, float] | None = None,
    **changes: Any,
) -> LlavaVideo:
    """A module whose parts in `train` learn whole, not yet configured."""
    family, _ = family_of(name)
    adapters = dict(adapters or {})
    rates = {part: 1e-2 * (1 + place) for place, part in enumerate(PARTS) if part in train or part in adapters}
    settings = {"weights": "random", "architecture": architecture(tokenizer, family=family), "dtype": "float32"}
    arguments = {
        "model": partial(build_vlm, family=family, **{**settings, **(model or {})}),
        "family": family,
        "tokenizer": lambda: tokenizer,
        "mean": MEAN,
        "std": STD,
        "train": {part: part in train for part in PARTS},
        "adapters": {part: adapters.get(part) for part in PARTS},
        "lr": {part: (lr or rates).get(part) for part in PARTS},
        "optimizer": torch.optim.AdamW,
        "weight_decay": weight_decay,
        "schedule": partial(warmup_constant, warmup=1),
    }
    return LlavaVideo(**{**arguments, **changes})


# Files and rows


def picture(number: int, *, height: int = 36, width: int = 48) -> NDArray[np.uint8]:
    """A smooth picture that no other number has, uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4 % 256, (y * 5 + number * 16) % 256, np.full_like(x, number * 20 % 256)], 2).astype(np.uint8)


def write_media(folder: Path) -> Path:
    """Videos of 12, 7 and 3 frames, a GIF of 6, a folder of 4, single images, and a file that is no video."""
    for name, count in (("long", 12), ("seven", 7), ("short", 3)):
        write_h264(folder / f"{name}.mp4", np.stack([picture(number) for number in range(count)]))
    images = [Image.fromarray(picture(number)) for number in range(6)]
    images[0].save(folder / "six.gif", save_all=True, append_images=images[1:], duration=100)
    (folder / "four").mkdir()
    for number, image in enumerate(images[:4]):
        image.save(folder / "four" / f"frame_{number}.png")
    images[5].save(folder / "one.png")
    (folder / "broken.mp4").write_bytes(b"no video at all" * 50)
    return folder


def entry(video: str | list[str] | None, *said: str, **more: Any) -> dict[str, Any]:
    """A row of an annotation file: questions and answers in turn, the first about the video."""
    said = said or ("What is it?", "It is a dog.")
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": words} for place, words in enumerate(said)]
    if video is not None:
        messages[0]["content"] = "<video>" + messages[0]["content"]
    return {"messages": messages, **({"videos": [video]} if video is not None else {}), **more}


def make_rows(
    media: Path,
    entries: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerFast,
    *,
    name: str = "llava",
    plan: FramePlan | None = None,
    **changes: Any,
) -> VideoConversations:
    """A data set of these rows."""
    family, template = family_of(name)
    annotations = media / "rows.json"
    annotations.write_text(json.dumps(list(entries)))
    settings: dict[str, Any] = {
        "annotations": str(annotations),
        "media": str(media),
        "tokenizer": lambda: tokenizer,
        "template": lambda: template,
        "family": family,
        "plan": plan or UniformFrames(frames=5),
        "tokens_per_frame": GRID,
        "image_size": SIZE,
        "resize_mode": "bicubic",
        "cache": None,
        "max_tokens": 512,
        "max_visual_tokens": 128,
    }
    return VideoConversations(**{**settings, **changes})


def batch_of(rows: VideoConversations, *numbers: int) -> LlavaBatch:
    """A micro-batch of these rows (all without numbers) that is a global batch by itself."""
    numbers = numbers or tuple(range(len(rows)))
    weights = rows.weights
    total = float(weights[list(numbers)].sum()) if weights is not None else float(len(numbers))
    batch = rows.collate([rows[Pick(number, number, total)] for number in numbers])
    assert isinstance(batch, LlavaBatch)
    return batch
