"""What a language model is asked in order to shorten a caption, and how its reply is read."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from common.files import digest
from common.random import mix
from common.weights.pretrained import load_pretrained
from common.weights.source import weights_folder
from projects.text_to_video.captions import Written, key_of
from projects.text_to_video.continuation import Continuation

CONTENT = ("*.safetensors", "*.bin", "config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja")
TODAY: Final = "26 Jul 2024"  # some templates write the date; a fixed one keeps prompts alike from day to day
# Beginnings of captions that differ from the first character on: what the prompts of all have in common is fixed.
PROBES = ("A man", "the", "1", '"Two', "\n", " ", "(", "\u00c9")
LEAD = re.compile(r"[^\n]{0,120}:\s*\n\s*(?=\S)")  # "Here is the description:"


class Rewriter:
    """A causal language model of transformers with a chat template. Nothing is loaded before it is needed."""

    def __init__(
        self,
        *,
        weights: str,
        instruction: str,
        max_words: int = 45,
        dtype: str = "bfloat16",
        merge_system: bool = False,
        max_new_tokens: int = 80,
        temperature: float = 0.0,
        top_p: float = 0.9,
        seed: int = 0,
        reuse_prefix: bool = True,
    ) -> None:
        """
        Args:
            weights: folder, or id of a Hub repository that was fetched.
            instruction: what to do with the caption, which follows; {max_words} stands for the number.
            max_words: that the new caption may have.
            dtype: of the weights.
            merge_system: puts the instruction before the caption, for templates without a system role.
            max_new_tokens: greatest length of a reply.
            temperature: of draws; 0 takes the likeliest token.
            top_p: draws are from the likeliest tokens that together have this probability.
            seed: of the draws, which are each caption's own.
            reuse_prefix: send the instruction through the model once, instead of once a caption.

        Raises:
            ValueError: numbers out of range.
        """
        if max_words < 1 or max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
            raise ValueError(
                "task.rewriter: max_words and max_new_tokens from 1, temperature from 0, top_p above 0 to 1"
            )
        self.weights, self.dtype, self.merge_system = weights, dtype, merge_system
        self.instruction = instruction.replace("{max_words}", str(max_words)).strip()
        self.max_words, self.max_new_tokens, self.reuse_prefix = max_words, max_new_tokens, reuse_prefix
        self.temperature, self.top_p, self.seed = float(temperature), float(top_p), seed
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def request(self) -> dict[str, Any]:
        """What the captions depend on besides the model, as JSON."""
        draws = {"top_p": self.top_p, "seed": self.seed} if self.temperature else {}
        return {
            "instruction": self.instruction,
            "merge_system": self.merge_system,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            **draws,
        }

    def settings(self) -> dict[str, Any]:
        """The same with the model, which a folder's content tells: other weights of one name are another model."""
        folder = weights_folder(self.weights)
        files = sorted(path for pattern in CONTENT for path in folder.glob(pattern))
        content = hashlib.blake2b("".join(digest(path) for path in files).encode(), digest_size=8).hexdigest()
        name = folder.resolve().name if Path(self.weights).is_dir() else self.weights
        return {"engine": "transformers", "model": name, "content": content, "dtype": self.dtype, **self.request()}

    def messages(self, caption: str) -> list[dict[str, str]]:
        """The chat about a caption."""
        if self.merge_system:
            return [{"role": "user", "content": f"{self.instruction}\n\n{caption}"}]
        return [{"role": "system", "content": self.instruction}, {"role": "user", "content": caption}]

    def seed_of(self, caption: str) -> int:
        """Seed of the draws for a caption."""
        return mix("recaption", self.seed, key_of(caption))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own, with its chat template.

        Raises:
            ValueError: it has no template.
        """
        if self._tokenizer is None:
            self._tokenizer = AutoTokenizer.from_pretrained(weights_folder(self.weights))
            if self._tokenizer.chat_template is None:
                raise ValueError(
                    f"task.rewriter.weights={self.weights} has no chat template; choose a model that was tuned to chat"
                )
        return self._tokenizer

    def prompts(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of the chats, up to where the reply begins."""
        texts = [
            self.tokenizer.apply_chat_template(
                self.messages(caption), tokenize=False, add_generation_prompt=True, date_string=TODAY
            )
            for caption in captions
        ]
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def prefix(self) -> list[int]:
        """Tokens that prompts begin with, whatever the caption; one may still differ, then it goes without."""
        probes = self.prompts(PROBES)
        length = next((i for i, tokens in enumerate(zip(*probes, strict=False)) if len({*tokens}) > 1), 0)
        return probes[0][:length]

    def build(self) -> Continuation:
        """Loads the model."""
        model = load_pretrained(
            AutoModelForCausalLM, str(weights_folder(self.weights)), dtype=getattr(torch, self.dtype)
        )
        ends = model.generation_config.eos_token_id if model.generation_config else None
        ends = self.tokenizer.eos_token_id if ends is None else ends
        return Continuation(
            model,
            prefix=self.prefix() if self.reuse_prefix else (),
            ends=ends if isinstance(ends, list) else [ends],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
        )

    def rewrite(self, captions: Sequence[str], model: Continuation) -> list[Written]:
        """New captions of a batch."""
        replies = model(self.prompts(captions), seeds=[self.seed_of(caption) for caption in captions])
        texts = self.tokenizer.batch_decode(replies, skip_special_tokens=True)
        cut = [reply[-1] not in model.ends for reply in replies]
        return [Written(key_of(c), clean(str(text)), over) for c, text, over in zip(captions, texts, cut, strict=True)]


def clean(reply: str) -> str:
    """The caption in a reply: without an announcement on a line of its own, quotes around it, and line breaks."""
    text = reply.strip()
    lead = LEAD.match(text)
    text = " ".join(text[lead.end() if lead else 0 :].split())
    quoted = len(text) > 1 and (text[0], text[-1]) in {('"', '"'), ("'", "'"), ("\u201c", "\u201d")}
    return text[1:-1].strip() if quoted else text
