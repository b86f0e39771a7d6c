"""The table of prompts: each distinct one through the text encoder once.

An entry is a prompt by itself, float16 (L, D): the last hidden states of the text encoder.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.data.cache import CacheWriter, Item, Part
from common.encoders.text import ClipText
from common.encoders.turns import copies_on, in_turn, runs

DTYPE = torch.float16
SHARD = 512  # prompts; 60 MB of the published text encoder


def text_settings_of(encoder: ClipText) -> dict[str, str | int | float | bool | None]:
    """What states of prompts depend on."""
    return {
        "text_encoder": encoder.identity,
        "text_encoder_dtype": encoder.dtype,
        "max_tokens": encoder.max_tokens,
        "dtype": str(DTYPE).removeprefix("torch."),
    }


class PromptTable:
    """Makes the table in a folder; what is there already is kept."""

    def __init__(self, folder: Path, *, encoder: ClipText, prompts: Sequence[str], part: Part) -> None:
        """
        Args:
            folder: of the table.
            encoder: of the prompts.
            prompts: distinct.
            part: which of the shards to make here.

        Raises:
            ValueError: a prompt is too long for the encoder; it is named.
            StaleCacheError: the folder holds the table of other prompts or of another encoder.
        """
        encoder.tokenise(prompts)  # refuses before hours of work, not after
        settings = text_settings_of(encoder)
        keys = [json.dumps([prompt, settings], sort_keys=True).encode() for prompt in prompts]
        items = [
            Item(prompt, hashlib.blake2b(key, digest_size=16).hexdigest())
            for prompt, key in zip(prompts, keys, strict=True)
        ]
        self.encoder = encoder
        self.writer = CacheWriter(folder, items=items, settings=settings, shard_size=SHARD)
        self.missing = self.writer.missing(part)

    def fill(self, places: Sequence[torch.device], *, at_once: int) -> None:
        """Encodes what is missing, `at_once` prompts in a batch."""
        if not self.missing:
            return
        shards = {number: list(runs(self.writer.shards[number], at_once)) for number in self.missing}
        batches = [batch for shard in shards.values() for batch in shard]
        made = in_turn(_states, batches, copies_on(self.encoder, places))
        for number, runs_of_shard in shards.items():
            states = {key: tensor for _ in runs_of_shard for key, tensor in next(made).items()}
            self.writer.write(number, states, [])


@torch.inference_mode()
def _states(items: Sequence[Item], encoder: ClipText) -> dict[str, Tensor]:
    states = encoder([item.name for item in items]).to(DTYPE).cpu()
    if not states.isfinite().all():
        raise ValueError(f"the text encoder gives numbers that {DTYPE} cannot hold; give task.text.dtype=float32")
    return {item.key: state for item, state in zip(items, states, strict=True)}
