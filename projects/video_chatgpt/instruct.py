"""VideoInstruct-100K as downloaded (`q`, `a`, `video_id`) into the training file of Video-ChatGPT.

The rules are those of `scripts/convert_instruction_json_to_training_format.py` of the original: `<video>` stands behind
the question in even rows of the input and before it in odd ones, counted before anything is left out.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from common.data.cache import Cache
from common.data.check import read_all
from common.data.conversations import NOISE, Conversation, DataError, resolve_media
from common.files import atomic_write_text, write_jsonl
from common.random import mix

log = logging.getLogger(__name__)

LEFT_OUT = "left_out.jsonl"
BAD = "bad"
Reason = Callable[[str], str | None]  # from a video to why its rows are left out, if they are


def convert_instruct(
    *,
    source: str,
    target: str,
    ids: str | None,
    features: str | None,
    media: str | None,
    held_out: Mapping[str, int],
    seed: int,
    strip_noise: bool,
    max_bad: float,
) -> dict[str, int]:
    """Writes `train.json`, a file for each split that is held out, and `left_out.jsonl`: what is in none, and why.

    Args:
        source: list of {"q", "a", "video_id"}.
        target: folder to write into.
        ids: file of video ids, one a line, to keep (the published training names 13,303); null keeps all.
        features: finished cache, or folder of feature files named by video; rows without features are left out.
        media: folder of videos; rows without their video are left out.
        held_out: {split: number of videos}, chosen by hash of the seed and the id, so that a video is in one split.
        seed: of that choice.
        strip_noise: takes the line `QA_GT_caption_based_noisy` off the end of answers.
        max_bad: greatest share of rows that may be unusable (no answer, no question, not text).

    Returns:
        Counts of rows of each split, of what was left out by reason, and of stripped answers.

    Raises:
        ValueError: too many bad rows, no rows left, more videos held out than there are, or a file of `target` that
            holds something else.
    """
    rows = read_all(Path(source))
    listed = None if ids is None else set(Path(ids).read_text(encoding="utf-8").split())
    reasons = [_not_listed(listed), _without_features(features), _without_media(media)]
    entries = [_entry(row, reasons, strip_noise=strip_noise) for row in rows]
    counts = Counter(entry.reason for entry in entries if entry.reason is not None)
    if counts[BAD] > max_bad * len(rows):
        first = next(entry.detail for entry in entries if entry.reason == BAD)
        raise ValueError(f"{counts[BAD]} of {len(rows)} rows are bad, first: {first}; mend them or raise task.max_bad")
    kept = [entry.row for entry in entries if entry.row is not None]
    left_out = [
        {"row": number, "video": entry.video, "reason": entry.reason, "detail": entry.detail}
        for number, entry in enumerate(entries)
        if entry.reason is not None
    ]
    splits = _split(kept, held_out, seed)
    _write(Path(target), splits, left_out)
    videos = {row["id"] for row in kept}
    figures = {"rows": len(rows), "videos": len(videos), "noise stripped": sum(entry.stripped for entry in entries)}
    figures |= {split: len(chosen) for split, chosen in splits.items()} | dict(counts)
    return figures | ({} if listed is None else {"listed videos without rows": len(listed - videos)})


class Entry(NamedTuple):
    """What became of a row of the input: a row of the training file, or the reason why there is none."""

    video: str | None
    row: dict[str, Any] | None = None
    stripped: bool = False
    reason: str | None = None
    detail: str | None = None


def _entry(row: Conversation | DataError, reasons: list[Reason], *, strip_noise: bool) -> Entry:
    if isinstance(row, DataError):
        return Entry(None, reason=BAD, detail=str(row))
    turn = row.turns[0]
    if not isinstance(row.video, str) or len(row.turns) > 1 or turn.assistant is None:
        return Entry(None, reason=BAD, detail=f"{row.where}, keys: not q, a, video_id; leave its file as it is")
    found = next((found for reason in reasons if (found := reason(row.video)) is not None), None)
    if found is not None:
        return Entry(row.video, reason=found)
    stripped = strip_noise and turn.assistant.rstrip().endswith(NOISE)
    answer = turn.assistant.rstrip().removesuffix(NOISE).rstrip() if stripped else turn.assistant
    if not answer:
        return Entry(row.video, reason=BAD, detail=f"{row.where}, answer: holds nothing but {NOISE}")
    turns = [{"from": "human", "value": turn.user}, {"from": "gpt", "value": answer}]
    return Entry(row.video, {"id": row.video, "video": f"{row.video}.pkl", "conversations": turns}, stripped)


def _not_listed(listed: set[str] | None) -> Reason:
    return lambda video: None if listed is None or video in listed else "not in the list"


def _without_features(features: str | None) -> Reason:
    if features is None:
        return lambda video: None
    folder = Path(features)
    if (folder / "plan.json").exists():
        names = set(Cache(folder))
    elif folder.is_dir():
        names = {path.name.partition(".")[0] for path in folder.iterdir()}
    else:
        raise ValueError(f"{folder}: no such folder; set task.features to a cache or to feature files, or to null")
    return lambda video: None if video in names else "without features"


def _without_media(media: str | None) -> Reason:
    if media is None:
        return lambda video: None
    known: dict[str, str | None] = {}

    def reason(video: str) -> str | None:
        if video not in known:
            try:
                resolve_media(Path(media), Conversation(id=video, video=video, turns=(), where=video))
                known[video] = None
            except DataError:
                known[video] = "without video"
        return known[video]

    return reason


def _split(rows: list[dict[str, Any]], held_out: Mapping[str, int], seed: int) -> dict[str, list[dict[str, Any]]]:
    videos = sorted({row["id"] for row in rows}, key=lambda video: mix("video_instruct", seed, video))
    wanted = sum(held_out.values())
    if wanted >= len(videos):
        raise ValueError(f"task.held_out asks for {wanted} of {len(videos)} videos; none would be left to train on")
    split_of: dict[str, str] = {}
    for split, count in held_out.items():
        split_of |= dict.fromkeys(videos[len(split_of) : len(split_of) + count], split)
    splits: dict[str, list[dict[str, Any]]] = {"train": [], **{split: [] for split in held_out}}
    for row in rows:
        splits[split_of.get(row["id"], "train")].append(row)
    return splits


def _write(target: Path, splits: Mapping[str, list[dict[str, Any]]], left_out: list[dict[str, Any]]) -> None:
    texts = {
        target / f"{split}.json": json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
        for split, rows in splits.items()
    }
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{path} holds something else; remove it or choose another task.target")
    for path, text in texts.items():
        atomic_write_text(path, text)
    write_jsonl(target / LEFT_OUT, left_out)


def _as_json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
