"""The preparation task that shortens captions with a language model on this machine."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from common.data.cache import WHOLE, Part
from common.encoders.turns import copies_on, in_turn, one_thread, pick_devices, runs
from common.progress import track
from projects.text_to_video.caption_report import TextLimit, report
from projects.text_to_video.captions import CaptionFile, Written, distinct, open_captions, part_of, read_written
from projects.text_to_video.clips import read_clips
from projects.text_to_video.continuation import Continuation, begins
from projects.text_to_video.rewriter import Rewriter

log = logging.getLogger(__name__)
AT_ONCE = 2048  # captions that are tokenised together


class Prompt(NamedTuple):
    """A caption, the tokens of the prompt about it, and whether that begins as all do."""

    tokens: int
    begins: bool
    caption: str


def recaption(
    *,
    table: str,
    output: str,
    rewriter: Rewriter,
    text: TextLimit,
    batch: int,
    devices: str | Sequence[str] = "auto",
    shard: str | None = None,
) -> dict[str, Any]:
    """Rewrites every caption of a table once, however many clips have it; see `captions` for the files.

    Captions of similar length go together, longest first, so that a batch that does not fit fails at the start. What is
    there is kept; a batch that was begun and not finished is made again whole, so that a task that was killed ends
    with the same file. The devices take turns; one process a device (`task.shard` with CUDA_VISIBLE_DEVICES) is faster
    where there are many, since one Python drives them all.

    Args:
        table: of clips, or its folder.
        output: folder for the captions, `settings.json` and `too_long.jsonl`.
        rewriter: the model and what it is asked.
        text: what the captions must fit into, for the report.
        batch: captions that go through the model together.
        devices: "auto", a name or a list of names, see `pick_devices`.
        shard: "i/n" makes the i-th of n parts of the captions, i = 0 .. n - 1, for n processes that share the folder.

    Returns:
        Counts of different captions, of those written now, left to other shards, empty, cut at the greatest length,
        and too long; and captions a second.

    Raises:
        ValueError: no such device or part, prompts that the model has no room for, or captions of other settings.
    """
    if batch < 1:
        raise ValueError(f"task.batch={batch} must be 1 or more")
    places = pick_devices(devices)
    part = WHOLE if shard is None else Part.parse(shard)
    captions = distinct(clip.caption for clip in read_clips(table))
    folder, started = Path(output), time.monotonic()
    with open_captions(folder, settings=rewriter.settings(), part=part) as file:
        done = read_written(folder)
        todo = [captions[key] for key in part_of(captions, part) if key not in done]
        if todo:
            _write(todo, file, rewriter, batch, places)
    rate = len(todo) / max(time.monotonic() - started, 1e-9)
    figures = report(captions, folder, max_words=rewriter.max_words, text=text)
    return {"written": len(todo), "captions a second": round(rate, 2), **figures}


def _write(captions: list[str], file: CaptionFile, rewriter: Rewriter, size: int, places: list[torch.device]) -> None:
    """Rewrites captions batch by batch; each is on the disk before the next is waited for."""
    ranked = _ranked(captions, rewriter)

    def work(some: list[str], model: Continuation) -> list[Written]:
        return rewriter.rewrite(some, model)

    with one_thread():
        model = rewriter.build()
        _check_room(max(ranked), rewriter, model)
        models = copies_on(model, places)
        for each in dict.fromkeys(models):
            each.warm_up()
        batches = _batches(ranked, size)
        written = in_turn(work, batches, models)
        for rows in track(written, description="rewriting captions", total=len(batches)):
            file.append(rows)


def _ranked(captions: list[str], rewriter: Rewriter) -> list[Prompt]:
    """Prompts, those that begin as all do first, then longest first; an order of the captions alone."""
    prefix = rewriter.prefix() if rewriter.reuse_prefix else []
    prompts = []
    for some in runs(captions, AT_ONCE):
        ids = rewriter.prompts(some)
        prompts += [Prompt(len(row), begins(row, prefix), text) for row, text in zip(ids, some, strict=True)]
    return sorted(prompts, key=lambda prompt: (prompt.begins, prompt.tokens, prompt.caption), reverse=True)


def _batches(ranked: list[Prompt], size: int) -> list[list[str]]:
    """Batches in order, each with or without the shared beginning.

    Taking the first batches away leaves the others as they are: a task that goes on makes the same ones.
    """
    groups = [[prompt.caption for prompt in ranked if prompt.begins is alike] for alike in (True, False)]
    return [list(each) for group in groups for each in runs(group, size)]


def _check_room(longest: Prompt, rewriter: Rewriter, model: Continuation) -> None:
    room = int(model.model.config.max_position_embeddings) - rewriter.max_new_tokens
    if longest.tokens > room:
        raise ValueError(
            f"a caption makes a prompt of {longest.tokens} tokens, {rewriter.weights} has room for {room}: "
            f"{longest.caption[:80]!r}...; take the clip out, or choose a model with more room"
        )
