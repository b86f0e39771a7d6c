"""CLIP's text tower as Stable Diffusion uses it: prompts in, the states of all places out."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase

from common.files import digest
from common.random import mix
from common.shapes import expect
from common.weights.pretrained import load_pretrained
from common.weights.source import Weights, weights_folder

log = logging.getLogger(__name__)
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")


class ClipText(nn.Module):
    """Last hidden states of a CLIP text tower, behind its final layer norm.

    As in the pipelines of Stable Diffusion, every prompt is padded to the same length with the tokenizer's own padding
    token and no place is masked: the tower is causal, and what stands at the padding is a condition like any other.
    """

    def __init__(
        self,
        *,
        weights: str,
        architecture: Mapping[str, Any] | None = None,
        tokenizer: str | None = None,
        max_tokens: int = 77,
        dtype: str = "float32",
        seed: int = 0,
        trained: bool = False,
        tokens_only: bool = False,
    ) -> None:
        """
        Args:
            weights: folder of a diffusers pipeline (`text_encoder/`, `tokenizer/`), of a CLIP or of its text tower; the
                id of a Hub repository of that kind that was fetched; or "random" for `architecture` with random
                weights.
            architecture: arguments of CLIPTextConfig; only for "random".
            tokenizer: folder or Hub id of another tokenizer than the one beside the weights; needed for "random".
            max_tokens: L, length that prompts are padded to, both ends included; 77 for the published towers.
            dtype: of the weights and the states, such as "float32".
            seed: of the random weights.
            trained: whether the tower learns; if not, it is frozen and stays in eval mode.
            tokens_only: build no tower: what is left tells ids, lengths and identity of prompts, and gives no states.

        Raises:
            ValueError: no tokenizer, one of another vocabulary, or more places than the tower has.
            WeightsError: there are no such weights.
        """
        super().__init__()
        config, origin = _config(weights, architecture, seed)
        folder = _tokenizer_folder(weights, tokenizer)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        self.identity = _identity([origin, _files_of(folder)])
        self.max_tokens, self.trained, self.dtype = max_tokens, trained, dtype
        self.width = int(config.hidden_size)
        places, words = config.max_position_embeddings, config.vocab_size
        if not 2 < max_tokens <= places:
            raise ValueError(
                f"text.max_tokens={max_tokens}: the text encoder {weights} has {places} places; give 3 to {places}"
            )
        if len(self.tokenizer) > words:
            raise ValueError(
                f"{folder}: a tokenizer of {len(self.tokenizer)} tokens, the text encoder {weights} knows {words}; "
                "give text.tokenizer, the one it was trained with"
            )
        self._warned: set[str] = set()
        if not tokens_only:
            self.tower = _tower(weights, config, seed).to(getattr(torch, dtype)).requires_grad_(trained)
        self.train(trained)

    def train(self, mode: bool = True) -> "ClipText":
        """Stays in eval mode where the tower is frozen."""
        return super().train(mode and self.trained)

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, both ends included; quick, for very many of them."""
        backend: Any = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return [len(each) for each in backend.encode_batch_fast(list(prompts))]

    def tokenise(self, prompts: Sequence[str]) -> Tensor:
        """Token ids of prompts, int64 (B, L); padded, never cut.

        Raises:
            ValueError: a prompt is longer than L; it is named.
        """
        rows: list[list[int]] = self.tokenizer(list(prompts), truncation=False, padding=False, verbose=False)[
            "input_ids"
        ]
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) > self.max_tokens:
                raise ValueError(
                    f'the prompt "{prompt}" has {len(row)} tokens with both ends, the text encoder takes '
                    f"{self.max_tokens}; shorten it"
                )
            self._warn_of_unknown_words(prompt, row)
        padding = self.tokenizer.pad_token_id
        return torch.tensor([row + [padding] * (self.max_tokens - len(row)) for row in rows], dtype=torch.long)

    def forward(self, prompts: Tensor | Sequence[str]) -> Tensor:
        """States of prompts.

        Args:
            prompts: ids, int64 (B, L), or the texts themselves.

        Returns:
            (B, L, D) in the dtype of the tower, on its device.

        Raises:
            ValueError: a prompt is too long, or ids of another length.
        """
        ids = prompts if isinstance(prompts, Tensor) else self.tokenise(prompts)
        expect(ids, "B L", name="ids of prompts", dtype=torch.long, L=self.max_tokens)
        with nullcontext() if self.trained else torch.no_grad():
            states: Tensor = self.tower(ids.to(self.tower.device)).last_hidden_state
        return states

    def _warn_of_unknown_words(self, prompt: str, row: Sequence[int]) -> None:
        """CLIP's own tokenizer spells out any word; a vocabulary of whole words (the tiny one) cannot."""
        tokenizer = self.tokenizer
        unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id}
        if prompt not in self._warned and not unknown.isdisjoint(row):
            self._warned.add(prompt)
            log.warning('the prompt "%s" has words that the vocabulary of the text encoder lacks', prompt)


def _config(weights: str, architecture: Mapping[str, Any] | None, seed: int) -> tuple[CLIPTextConfig, Any]:
    """Sizes of the tower, and what tells it from others."""
    if weights != "random":
        folder = _subfolder(weights_folder(weights), "text_encoder")
        return CLIPTextConfig.from_pretrained(folder), Weights(folder).identity()
    if architecture is None:
        raise ValueError("text.weights=random needs text.architecture, the arguments of CLIPTextConfig")
    return CLIPTextConfig(**architecture), ["random", seed, dict(architecture)]


def _tower(weights: str, config: CLIPTextConfig, seed: int) -> CLIPTextModel:
    """The model in float32."""
    if weights != "random":
        folder = _subfolder(weights_folder(weights), "text_encoder")
        model: CLIPTextModel = load_pretrained(CLIPTextModel, str(folder), dtype=torch.float32)
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("clip text", seed))
        return CLIPTextModel(config)


def _tokenizer_folder(weights: str, tokenizer: str | None) -> Path:
    if tokenizer is None and weights == "random":
        raise ValueError("text.weights=random needs text.tokenizer, a folder with the tokenizer of a CLIP")
    folder = _subfolder(weights_folder(weights if tokenizer is None else tokenizer), "tokenizer")
    if not _files_of(folder):
        raise ValueError(f"{folder}: none of {', '.join(TOKENIZER_FILES)}; give text.tokenizer, a folder that has them")
    return folder


def _subfolder(folder: Path, name: str) -> Path:
    """The part of a pipeline, or the folder itself where it is no pipeline."""
    return folder / name if (folder / name).is_dir() else folder


def _files_of(folder: Path) -> dict[str, str]:
    return {name: digest(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}


def _identity(parts: Sequence[Any]) -> str:
    text = json.dumps(parts, sort_keys=True)
    return f"clip-text:{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
