"""A LLaMA of 0.4 M parameters, trained on logs of the built-in world in a few minutes on two cores."""

import math
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from common.progress import track
from common.random import generator, mix
from common.shapes_world.language import TYPES
from common.tiny.folder import finished, save
from common.tiny.logs import FRAMES, IGNORED, ROWS, Corpus, make_corpus
from common.tiny.words import build_tokenizer

TITLE = "Tiny causal language model of the built-in world"
TASK = "tiny_lm"
MAX_TOKENS = 512
JUDGED_LOGS = 1000
EMBEDDING_STD = 0.05


def build(*, width: int, layers: int, heads: int, words: int) -> LlamaForCausalLM:
    """The untrained model, with input and output embeddings tied: what a row names is soon what an answer names."""
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=round(width * 8 / 3 / 8) * 8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=MAX_TOKENS,
        # Short texts: with the usual base of 10,000 most rotations would not turn within them.
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    nn.init.normal_(model.model.embed_tokens.weight, std=EMBEDDING_STD)
    return model


def train(
    *,
    folder: str | Path,
    seed: int = 0,
    width: int = 128,
    layers: int = 2,
    heads: int = 4,
    steps: int = 900,
    batch: int = 64,
    lr: float = 2e-3,
    warmup: int = 30,
    logs: int = 12000,
    turns: int = 3,
    noise: float = 0.1,
    log_weight: float = 1.0,
    names_weight: float = 0.3,
) -> dict[str, float]:
    """Trains the model and writes a Hugging Face folder, unless it is there.

    The loss is the cross-entropy of the answers, plus that of the words which follow each row of a log. Without the
    second, whose targets are dense, the model does not find out within minutes what a change of place means.

    Args:
        folder: where the result goes.
        seed: of weights, texts and their order.
        width: of the embeddings.
        layers: blocks.
        heads: of each block.
        steps: optimiser steps.
        batch: logs a step.
        lr: highest learning rate; a cosine down to 0 follows the warm-up.
        warmup: steps of linear warm-up.
        logs: number of different logs.
        turns: questions after each.
        noise: standard deviation added to the rows, against that of the embeddings.
        log_weight: of the loss of the words that follow rows.
        names_weight: of colours and shapes among these words, against 1 for directions.

    Returns:
        Accuracy on logs that were not trained on, by type of question ("text/direction": 0.98, ...), "steps" and
        "seconds".

    Raises:
        ValueError: `folder` holds a model made with other settings.
    """
    settings = {key: value for key, value in locals().items() if key != "folder"}
    folder = Path(folder)
    if (scores := finished(folder, settings)) is not None:
        return scores
    began = time.monotonic()
    tokenizer = build_tokenizer(clip=False, max_length=MAX_TOKENS)
    make = partial(make_corpus, tokenizer, names_weight=names_weight)
    corpus = make(seed=mix("tiny_lm", seed), split="train", logs=logs, turns=turns)
    judged = make(seed=mix("tiny_lm, judged", seed), split="test", logs=JUDGED_LOGS, turns=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("tiny_lm", seed))
        model = build(width=width, layers=layers, heads=heads, words=len(tokenizer))
        optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
        order = generator("tiny_lm", seed)
        for step in track(range(steps), description="tiny language model"):
            rows = torch.randint(logs, (batch,), generator=order)
            for group in optimiser.param_groups:
                group["lr"] = lr * min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
            loss = _loss(model, corpus, rows, noise, log_weight)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
    scores = {f"text/{kind}": value for kind, value in accuracy(model, judged).items()}
    scores |= {"steps": float(steps), "seconds": round(time.monotonic() - began, 1)}
    save(folder, model, tokenizer, settings=settings, scores=scores, title=TITLE, task=TASK)
    return scores


def embed(model: LlamaForCausalLM, corpus: Corpus, rows: Tensor, *, noise: float = 0.0) -> Tensor:
    """Input embeddings (B, L, width) of some logs: bags of words where the rows are, words elsewhere.

    Args:
        model: whose embeddings are used.
        corpus: the logs.
        rows: int64 (B,), which of them.
        noise: standard deviation to add to the bags, against that of the embeddings.
    """
    table = model.model.embed_tokens.weight
    words = functional.embedding(corpus.ids[rows], table)
    bags = corpus.bags[rows] @ table
    if noise:
        bags = bags + torch.randn_like(bags) * noise * table.detach().std()
    start = corpus.start
    return torch.cat([words[:, :start], bags, words[:, start + ROWS :]], dim=1)


def _loss(model: LlamaForCausalLM, corpus: Corpus, rows: Tensor, noise: float, log_weight: float) -> Tensor:
    embedded = embed(model, corpus, rows, noise=noise)
    hidden = model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    labels = corpus.labels[rows, 1:]
    learned = labels != IGNORED
    answers = functional.cross_entropy(model.lm_head(hidden[:, :-1][learned]), labels[learned])
    wanted = corpus.next_words[rows]
    said = functional.log_softmax(model.lm_head(hidden[:, corpus.start : corpus.start + FRAMES]), dim=-1)
    return answers - log_weight * (wanted * said).sum() / wanted.sum()


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, corpus: Corpus) -> dict[str, float]:
    """Share of first questions answered word for word, by type: greedy answers, in one pass with the answer given."""
    right = []
    for rows in torch.split(torch.arange(len(corpus.ids)), 250):
        best = model(inputs_embeds=embed(model, corpus, rows), use_cache=False).logits[:, :-1].argmax(-1)
        labels = corpus.labels[rows, 1:]
        right.append(((best == labels) | (labels == IGNORED)).all(dim=1))
    hits = torch.cat(right).double()
    chosen = {kind: [row for row, found in enumerate(corpus.types) if found == kind] for kind in TYPES}
    return {kind: round(float(hits[rows].mean()), 3) for kind, rows in chosen.items()}
