"""From rendered segments to token ids, with the learned tokens found by character offsets.

The whole text of a conversation is tokenised at once, as a model meets it, and a token is learned when its
characters lie in a learned segment. Nothing is counted, nothing is cut: a row that is too long is an error,
or left to the caller, who sees its length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from common.progress import track
from common.text.prompt import VIDEO, Segment

ROWS_AT_A_TIME = 2048


@dataclass(frozen=True, kw_only=True)
class VisualTokens:
    """What stands for one video among the tokens: `start` if there is one, `count` times `patch`, `end` if any."""

    count: int
    start: str | None = "<vid_start>"
    patch: str = "<vid_patch>"
    end: str | None = "<vid_end>"

    @property
    def tokens(self) -> list[str]:
        """Those that there are, in their order, the patch once."""
        return [token for token in (self.start, self.patch, self.end) if token is not None]

    def span(self, count: int) -> int:
        """Tokens of a video with `count` patches."""
        return count + len(self.tokens) - 1


class Encoded(NamedTuple):
    """One conversation as tokens.

    ids: int32 (L,). learned: bool (L,), true where a token is a training target. visual_start: place of the first
    visual token, which is the start token or, without one, the first patch; -1: no video.
    """

    ids: NDArray[np.int32]
    learned: NDArray[np.bool_]
    visual_start: int


class TooLongError(ValueError):
    """Rows have more tokens than allowed; `rows` holds their numbers."""

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message)
        self.rows = rows


def encode(
    rows: Sequence[Sequence[Segment]],
    *,
    tokenizer: PreTrainedTokenizerFast,
    visual: VisualTokens | None,
    counts: Sequence[int] | None = None,
    max_tokens: int | None = None,
    where: Sequence[str] | None = None,
    require_learned: bool = True,
) -> list[Encoded]:
    """Tokenises conversations.

    Args:
        rows: segments of each conversation, as `prompt.render` gives them; `<video>` at most once in a row.
        tokenizer: fast tokenizer that knows the visual tokens; it adds the opening token itself.
        visual: what `<video>` becomes; None where no row has a video.
        counts: patches of each row's video, in place of `visual.count`.
        max_tokens: longest row, visual tokens included. None: any length; `longer_than` then lists the rows
            to drop.
        where: name of each row for messages, such as "train.json row 17".
        require_learned: refuse a row without a learned token. False for prompts whose answer is wanted.

    Returns:
        One `Encoded` for each row, in order.

    Raises:
        TooLongError: rows longer than `max_tokens`; names the first and counts them.
        ValueError: names the row and what is wrong with it: a reserved token in its text, a marker too many
            or inside an answer, a token that is half answer, nothing learned.
    """
    names = [f"row {number}" for number in range(len(rows))] if where is None else where
    if len(names) != len(rows):
        raise ValueError(f"{len(names)} names for {len(rows)} rows")
    encoded: list[Encoded] = []
    visual_ids = _visual_ids(visual, tokenizer)
    counts = [0 if visual is None else visual.count] * len(rows) if counts is None else counts
    firsts = range(0, len(rows), ROWS_AT_A_TIME)
    for first in track(firsts, description=f"tokenising, {ROWS_AT_A_TIME} rows a step"):
        numbers = range(first, min(first + ROWS_AT_A_TIME, len(rows)))
        texts = [_expand(rows[number], visual, names[number]) for number in numbers]
        tokens = tokenizer(
            ["".join(text) for text in texts],
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for number, text, ids, offsets in zip(numbers, texts, tokens.input_ids, tokens.offset_mapping, strict=True):
            learned = _learned(rows[number], text, np.asarray(offsets, dtype=np.int64), names[number])
            if require_learned and not learned.any():
                raise ValueError(f"{names[number]}: nothing is learned from it; give it an answer")
            encoded.append(_repeat_patch(np.asarray(ids, dtype=np.int32), learned, visual_ids, counts[number]))
    _refuse_long(encoded, max_tokens, names)
    return encoded


def longer_than(encoded: Sequence[Encoded], max_tokens: int) -> list[int]:
    """Numbers of the rows with more than `max_tokens` tokens, for a caller that drops, and counts, them."""
    return [number for number, row in enumerate(encoded) if len(row.ids) > max_tokens]


def _refuse_long(encoded: Sequence[Encoded], max_tokens: int | None, names: Sequence[str]) -> None:
    rows = [] if max_tokens is None else longer_than(encoded, max_tokens)
    if rows:
        raise TooLongError(
            f"{names[rows[0]]}: {len(encoded[rows[0]].ids)} tokens, max_tokens is {max_tokens} "
            f"({len(rows)} of {len(encoded)} rows are longer); raise max_tokens or take these rows out",
            rows,
        )


def _visual_ids(visual: VisualTokens | None, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of the visual tokens, the patch first; empty without a video."""
    if visual is None:
        return []
    added = tokenizer.get_added_vocab()
    missing = [token for token in visual.tokens if token not in added]
    if missing:
        raise ValueError(f"the tokenizer lacks {', '.join(missing)}; name them in tokenizer.extra_tokens")
    first = sorted(visual.tokens, key=lambda token: token != visual.patch)
    return [added[token] for token in first]


def _expand(segments: Sequence[Segment], visual: VisualTokens | None, name: str) -> list[str]:
    """Texts of the segments, the marker replaced by the visual tokens; the patch is repeated later."""
    for token in () if visual is None else visual.tokens:  # the marker may itself be the patch of a model
        if any(token in segment.text.replace(VIDEO, "") for segment in segments):
            raise ValueError(f"{name}: its text contains the reserved token {token}; take it out")
    if any(segment.learned and VIDEO in segment.text for segment in segments):
        raise ValueError(f"{name}: an answer contains {VIDEO}; the marker belongs into a question")
    count = sum(segment.text.count(VIDEO) for segment in segments)
    if count > (visual is not None):
        remedy = "leave one" if visual is not None else "these rows are encoded without a video"
        raise ValueError(f"{name}: {count} markers {VIDEO}; {remedy}")
    if visual is None or count == 0:
        return [segment.text for segment in segments]
    return [segment.text.replace(VIDEO, "".join(visual.tokens)) for segment in segments]


def _learned(
    segments: Sequence[Segment], texts: Sequence[str], offsets: NDArray[np.int64], name: str
) -> NDArray[np.bool_]:
    """Which tokens lie in a learned segment: bool (L,), from offsets (L, 2) in characters of the whole."""
    starts, ends = offsets[:, 0], offsets[:, 1]
    learned = np.zeros(len(offsets), dtype=np.bool_)
    stops = list(accumulate(len(text) for text in texts))
    for segment, text, stop in zip(segments, texts, stops, strict=True):
        if not segment.learned:
            continue
        begin = stop - len(text)
        # Tokens without characters, such as the opening token, belong to no segment.
        touched = (starts < stop) & (ends > begin) & (ends > starts)
        if np.any(touched & ((starts < begin) | (ends > stop))):
            raise ValueError(f"{name}: a token is half answer, half not; separate them by a space in the template")
        learned |= touched
    return learned


def _repeat_patch(ids: NDArray[np.int32], learned: NDArray[np.bool_], visual_ids: list[int], count: int) -> Encoded:
    """Repeats the patch id `count` times; no visual token is learned."""
    patches = np.flatnonzero(ids == visual_ids[0]) if visual_ids else np.empty(0, dtype=np.int64)
    if len(patches) == 0:
        return Encoded(ids, learned, -1)
    assert len(patches) == 1
    times = np.ones(len(ids), dtype=np.int64)
    times[patches[0]] = count
    start = int(np.flatnonzero(np.isin(ids, visual_ids))[0])
    return Encoded(np.repeat(ids, times), np.repeat(learned, times), start)
