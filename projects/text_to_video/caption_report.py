"""What became of captions: how many are rewritten, and how many are still longer than the text encoder reads."""

import logging
from collections.abc import Mapping
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from common.encoders.turns import runs
from common.files import write_jsonl
from common.weights.source import weights_folder
from projects.text_to_video.captions import read_written

log = logging.getLogger(__name__)
TOO_LONG = "too_long.jsonl"
AT_ONCE = 4096  # captions that are tokenised together


class TextLimit:
    """What a text encoder reads of a caption."""

    def __init__(self, *, tokenizer: str | None, max_tokens: int = 77) -> None:
        """
        Args:
            tokenizer: folder or fetched Hub repository of the text encoder, or of a pipeline that has `tokenizer/`;
                None counts no tokens.
            max_tokens: that the text encoder reads, both ends included.
        """
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def lengths(self, captions: list[str]) -> list[int] | None:
        """Tokens of each caption with both ends; None without a tokenizer."""
        if self.tokenizer is None:
            return None
        loaded = self._load(weights_folder(self.tokenizer))
        ids: list[list[int]] = []
        for some in runs(captions, AT_ONCE):
            ids += loaded(list(some), truncation=False, padding=False, verbose=False)["input_ids"]
        return [len(row) for row in ids]

    def _load(self, folder: Path) -> PreTrainedTokenizerBase:
        inner = folder / "tokenizer"
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(inner if inner.is_dir() else folder)
        return loaded


def report(captions: Mapping[str, str], folder: Path, *, max_words: int, text: TextLimit) -> dict[str, int]:
    """Counts what a folder has for captions, and lists those that are too long in `too_long.jsonl`.

    Args:
        captions: originals by key.
        folder: of the new ones.
        max_words: that a new caption may have.
        text: what the text encoder reads.

    Returns:
        Counts: captions, left (not rewritten yet), empty, cut, over_words, and over_tokens where a tokenizer is given.
    """
    written = read_written(folder)
    found = [written[key] for key in captions if key in written]
    full = [each for each in found if each.caption]
    words = [len(each.caption.split()) for each in full]
    tokens = text.lengths([each.caption for each in full])
    over_words = [count > max_words for count in words]
    over_tokens = [count > text.max_tokens for count in tokens or [0] * len(full)]
    rows = (
        {
            "key": each.key,
            "caption": each.caption,
            "words": words[i],
            **({} if tokens is None else {"tokens": tokens[i]}),
        }
        for i, each in enumerate(full)
        if over_words[i] or over_tokens[i]
    )
    write_jsonl(folder / TOO_LONG, rows)
    figures = {"captions": len(captions), "left": len(captions) - len(found), "empty": len(found) - len(full)}
    figures |= {"cut": sum(each.cut for each in found), "over_words": sum(over_words)}
    if tokens is not None:
        figures["over_tokens"] = sum(over_tokens)
    if figures["empty"]:
        log.warning("%d captions have no new one: the model said nothing", figures["empty"])
    return figures
