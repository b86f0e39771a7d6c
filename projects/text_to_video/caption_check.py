"""Whether captions fit into the text encoder: asked once for all of them, before the first step."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from common.encoders.text import ClipText
from common.encoders.turns import runs
from common.files import atomic_write_text
from common.progress import track
from projects.text_to_video.captions import CaptionError

log = logging.getLogger(__name__)
RECORD = "caption_lengths.json"
AT_ONCE = 4096  # captions that are tokenised together
NAMED = 5  # captions that an error names


def refuse_long(captions: Mapping[str, str], encoder: ClipText, *, folder: Path, key: str) -> None:
    """Refuses captions that the text encoder would have to cut.

    What is found is kept in `folder`, so that it is counted once for a set of captions and a text encoder: processes
    that come to it together wait for the first. A folder that cannot be written to has it counted each time.

    Args:
        captions: the id of a clip that has it, by caption.
        encoder: of the captions; its tokenizer is enough.
        folder: beside the captions.
        key: of the configuration that the captions are from, for the message.

    Raises:
        CaptionError: some are too long; says how many, and names the first.
    """
    if not os.access(folder, os.W_OK):
        found = _measure(captions, encoder)
    else:
        with FileLock(folder / f".{RECORD}.lock"):
            found = _recorded(captions, encoder, folder / RECORD)
    if found["too_long"]:
        named = ", ".join(f"{name} ({tokens})" for name, tokens in found["first"])
        raise CaptionError(
            f"{key}: {found['too_long']} of {found['captions']} different captions have more than the "
            f"{encoder.max_tokens} tokens that the text encoder takes, first (clip, tokens) {named}; shorten them with "
            "`python -m launchers.prepare task=recaption` (fewer task.rewriter.max_words where that made them) and "
            "give its folder in data.*.captions, or take those clips out of the table"
        )


def _recorded(captions: Mapping[str, str], encoder: ClipText, path: Path) -> dict[str, Any]:
    """What the record says of these captions, or what is measured and recorded now."""
    records: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    name = _name(captions, encoder)
    if name not in records:
        records[name] = _measure(captions, encoder)
        atomic_write_text(path, json.dumps(records, indent=1) + "\n")
    return records[name]


def _name(captions: Mapping[str, str], encoder: ClipText) -> str:
    state = hashlib.blake2b(f"{encoder.identity}/{encoder.max_tokens}".encode(), digest_size=16)
    for caption in sorted(captions):
        state.update(hashlib.blake2b(caption.encode(), digest_size=16).digest())
    return state.hexdigest()


def _measure(captions: Mapping[str, str], encoder: ClipText) -> dict[str, Any]:
    texts = list(captions)
    batches = list(runs(texts, AT_ONCE))
    lengths: list[int] = []
    for some in track(batches, description="counting tokens of captions", total=len(batches)):
        lengths += encoder.lengths(some)
    long = [(captions[text], count) for text, count in zip(texts, lengths, strict=True) if count > encoder.max_tokens]
    return {"captions": len(texts), "longest": max(lengths), "too_long": len(long), "first": long[:NAMED]}
