"""What a causal language model does with the embeddings of conversations: logits of the targets, and answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from common.chat.rows import Branches
from common.random import mix


def target_logits(
    model: PreTrainedModel, embeddings: Tensor, target_places: Tensor, *, branches: Branches | None = None
) -> Tensor:
    """Logits of the targets only: every other position stays out of the head.

    Args:
        model: decoder with head.
        embeddings: (B, L, width), padded on the right, so that the causal mask alone keeps padding out.
        target_places: int64 (K,), flat places b * L + l of the positions that predict a target.
        branches: which tokens belong to which conversation, where several share a row.

    Returns:
        float32 (K, vocabulary).
    """
    settings: dict[str, Tensor] = {}
    if branches is not None:
        settings = {"attention_mask": branch_mask(branches.branch), "position_ids": branches.position}
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    hidden = decoder(inputs_embeds=embeddings, use_cache=False, **settings).last_hidden_state
    rows = hidden.flatten(0, 1).index_select(0, target_places)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert isinstance(head, nn.Module)
    logits: Tensor = head(rows)
    return logits.float()


def branch_mask(branch: Tensor) -> Tensor:
    """Which token sees which: those before it that are shared or of its own conversation.

    Args:
        branch: int64 (B, L), 0 for what is shared, -1 for padding.

    Returns:
        bool (B, 1, L, L), query by key, as `scaled_dot_product_attention` takes it.
    """
    length = branch.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    keys, queries = branch[:, None, :], branch[:, :, None]
    return (causal & ((keys == 0) | (keys == queries)))[:, None]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How an answer is chosen.

    Attributes:
        max_new_tokens: bound on its length.
        temperature: 0 takes the most likely token; above, tokens are drawn.
        top_p: share of the probability that is drawn from.
        seed: of the draws; each answer has a stream of its own, whatever it is batched with.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"request.temperature={self.temperature} must not be negative, request.top_p={self.top_p} lies in 0..1"
            )


@torch.no_grad()
def answer(
    model: PreTrainedModel,
    prompts: Sequence[Tensor],
    *,
    decoding: Decoding,
    ends: Sequence[int],
    names: Sequence[str],
) -> list[list[int]]:
    """Continues prompts up to the end token.

    Args:
        model: decoder with head.
        prompts: embeddings of each, (L_i, width); greedy ones go through the model together.
        decoding: how tokens are chosen.
        ends: ids that end an answer.
        names: of the prompts; a drawn answer depends on its name, the seed and the prompt alone.

    Returns:
        New ids of each, without the end token.
    """
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=decoding.max_new_tokens,
        do_sample=decoding.temperature > 0,
        temperature=decoding.temperature or None,
        top_p=decoding.top_p if decoding.temperature > 0 else None,
        top_k=0 if decoding.temperature > 0 else None,
        eos_token_id=list(ends),
        pad_token_id=ends[0],
        use_cache=True,
    )
    if decoding.temperature == 0:
        return _generate(model, prompts, settings)
    answers = []
    device = prompts[0].device
    for name, prompt in zip(names, prompts, strict=True):
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(mix("answer", decoding.seed, name))
            answers += _generate(model, [prompt], settings)
    return answers


def _generate(model: PreTrainedModel, prompts: Sequence[Tensor], settings: GenerationConfig) -> list[list[int]]:
    """Pads on the left, so that all answers begin at the same place."""
    longest = max(len(prompt) for prompt in prompts)
    padded = torch.stack([F.pad(prompt, (0, 0, longest - len(prompt), 0)) for prompt in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=padded.device)
    mask = (torch.arange(longest, device=padded.device) >= longest - lengths[:, None]).long()
    output: Tensor = model.generate(  # type: ignore[operator]
        inputs_embeds=padded,
        attention_mask=mask,
        generation_config=settings,
        synced_gpus=False,  # every rank has the whole model while it answers, and answers for itself
    )
    ends = set(settings.eos_token_id)
    return [_up_to(row, ends) for row in output.tolist()]


def _up_to(ids: list[int], ends: set[int]) -> list[int]:
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[:stop]
