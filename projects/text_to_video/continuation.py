"""Continuations of token sequences that begin alike: what they share goes through the model once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from common.random import generator

Keys = list[tuple[Tensor, Tensor]]


class Continuation(nn.Module):
    """A causal language model that writes on, greedily or by draws that belong to the row and not to its batch."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        prefix: Sequence[int],
        ends: Sequence[int],
        max_new_tokens: int,
        temperature: float,
        top_p: float,
    ) -> None:
        """
        Args:
            model: the language model.
            prefix: tokens that rows may begin with; their keys and values are computed once. Empty for none.
            ends: tokens that end a continuation.
            max_new_tokens: greatest length of a continuation.
            temperature: of the draws; 0 takes the likeliest token.
            top_p: draws are from the likeliest tokens that together have this probability.
        """
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.prefix, self.ends = list(prefix), list(ends)
        self.max_new_tokens, self.temperature, self.top_p = max_new_tokens, temperature, top_p
        self._keys: Keys | None = None

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Computes what the prefix gives, before threads share this module."""
        if self.prefix and self._keys is None:
            ids = torch.tensor([self.prefix], device=self.model.device)
            cache = DynamicCache(config=self.model.config)
            self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            layers: list[Any] = [*cache.layers]
            if not all(isinstance(getattr(layer, "keys", None), Tensor) for layer in layers):
                raise ValueError(
                    f"{type(self.model).__name__} keeps no keys and values in each layer; set "
                    "task.rewriter.reuse_prefix=false"
                )
            self._keys = [(layer.keys, layer.values) for layer in layers]

    @torch.inference_mode()
    def forward(self, rows: Sequence[Sequence[int]], *, seeds: Sequence[int]) -> list[list[int]]:
        """Continuations of rows.

        Args:
            rows: token ids, all of which begin with the prefix or none.
            seeds: of the draws of each row.

        Returns:
            New tokens of each row; the last is one that ends it, unless the row ran into the greatest length.
        """
        skip = len(self.prefix) if all(begins(row, self.prefix) for row in rows) else 0
        ids, mask = self._padded([row[skip:] for row in rows])
        cache = self._cache(len(rows) if skip else 0)
        positions = skip + (mask.cumsum(1) - 1).clamp(min=0)
        mask = torch.cat([mask.new_ones(len(rows), skip), mask], dim=1)
        draws = self._draws(seeds).to(ids.device)
        tokens, open_rows = [], torch.ones(len(rows), dtype=torch.bool, device=ids.device)
        ends = torch.tensor(self.ends, device=ids.device)
        for step in range(self.max_new_tokens):
            logits = self.model(
                ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen = torch.where(open_rows, self._choose(logits, draws[:, step]), ends[0])
            tokens.append(chosen)
            open_rows = open_rows & ~torch.isin(chosen, ends)
            if not open_rows.any():
                break
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        return [self._until_end(row) for row in torch.stack(tokens, dim=1).tolist()]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids with padding on the left, and 1 where there is a token: int64 (B, L) each."""
        length = max(len(row) for row in rows)
        padding = self.ends[0]  # masked, so that any token does
        ids = [[padding] * (length - len(row)) + list(row) for row in rows]
        mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids, device=self.model.device), torch.tensor(mask, device=self.model.device)

    def _cache(self, rows: int) -> DynamicCache:
        """An empty cache, or for a number of rows one that begins with the prefix."""
        if not rows or not self.prefix:
            return DynamicCache(config=self.model.config)
        self.warm_up()
        assert self._keys is not None
        shared = [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in self._keys]
        return DynamicCache(shared, config=self.model.config)

    def _draws(self, seeds: Sequence[int]) -> Tensor:
        """One number from 0 to 1 for each row and step, float32 (B, steps)."""
        if self.temperature == 0:
            return torch.zeros(len(seeds), self.max_new_tokens)
        return torch.stack([torch.rand(self.max_new_tokens, generator=generator(seed)) for seed in seeds])

    def _choose(self, logits: Tensor, draws: Tensor) -> Tensor:
        """Tokens, int64 (B,), from logits (B, V) and draws (B,)."""
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        share, order = torch.softmax(logits.float() / self.temperature, dim=-1).sort(
            dim=-1, descending=True, stable=True
        )
        share = share * (share.cumsum(dim=-1) - share < self.top_p)
        below = share.cumsum(dim=-1)
        place = (below <= draws[:, None] * below[:, -1:]).sum(dim=-1, keepdim=True)
        return order.gather(1, place.clamp(max=order.shape[1] - 1))[:, 0]

    def _until_end(self, tokens: list[int]) -> list[int]:
        last = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        return tokens[: last + 1]


def begins(row: Sequence[int], prefix: Sequence[int]) -> bool:
    """Whether a row begins with the prefix and goes on after it."""
    return len(row) > len(prefix) and list(row[: len(prefix)]) == list(prefix)
