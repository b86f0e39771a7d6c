"""Captions rewritten elsewhere, by an engine in an environment of its own: requests out, responses in.

Requests are JSON lines of {"id", "messages", "max_tokens", "temperature", "top_p", "seed"}; responses are JSON lines of
{"id", "text", "finish", "model"}, "finish" being "length" where the reply ran into its limit. `recaption_vllm.py` reads
the one and writes the other; any program may.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.cache import WHOLE, Part
from common.encoders.turns import runs
from common.files import read_jsonl, write_jsonl
from projects.text_to_video.caption_report import TextLimit, report
from projects.text_to_video.captions import (
    CaptionError,
    Written,
    distinct,
    open_captions,
    part_of,
    read_written,
)
from projects.text_to_video.clips import read_clips
from projects.text_to_video.rewriter import Rewriter, clean

GROUP = 1000  # captions that are committed together
FIELDS = {"id": str, "text": str, "finish": str, "model": str}


def write_requests(
    *, table: str, output: str, requests: str, rewriter: Rewriter, shard: str | None = None
) -> dict[str, int]:
    """Writes a request for each caption that the output does not have yet.

    Args:
        table: of clips, or its folder.
        output: folder that the responses will be imported into.
        requests: the file.
        rewriter: what is asked; its weights are not looked at.
        shard: "i/n" takes the i-th of n parts of the captions, for n machines.

    Returns:
        Counts of different captions and of requests.
    """
    part = WHOLE if shard is None else Part.parse(shard)
    captions = distinct(clip.caption for clip in read_clips(table))
    done = read_written(Path(output)) if Path(output).is_dir() else {}
    keys = [key for key in part_of(captions, part) if key not in done]
    write_jsonl(Path(requests), (_request(key, captions[key], rewriter) for key in keys))
    return {"captions": len(captions), "requests": len(keys)}


def import_responses(
    *, table: str, output: str, responses: Sequence[str], rewriter: Rewriter, text: TextLimit, max_missing: float = 0.0
) -> dict[str, Any]:
    """Brings responses into the output, beside those that are there.

    Args:
        table: of clips, or its folder.
        output: folder for the captions.
        responses: files; several where the requests were split.
        rewriter: what was asked.
        text: what the captions must fit into, for the report.
        max_missing: greatest share of the captions that may be without a response.

    Returns:
        Counts, as of `recaption`.

    Raises:
        CaptionError: a response is damaged, belongs to no caption, is there twice with another text or from another
            model, or too many are missing.
    """
    captions = distinct(clip.caption for clip in read_clips(table))
    found, model = _read([Path(path) for path in responses], captions)
    folder = Path(output)
    there = read_written(folder) if (folder / "settings.json").is_file() else {}
    missing = [key for key in captions if key not in found and key not in there]
    if len(missing) > max_missing * len(captions):
        raise CaptionError(
            f"{len(missing)} of {len(captions)} captions have no response, more than task.max_missing={max_missing}; "
            f"the first: {missing[0]}. Write the requests again (they are then those that are missing), or allow more"
        )
    new = [found[key] for key in captions if key in found and key not in there]
    with open_captions(
        folder, settings={"engine": "responses", "model": model, **rewriter.request()}, part=WHOLE
    ) as file:
        for group in runs(new, GROUP):
            file.append(group)
    return {"written": len(new), **report(captions, folder, max_words=rewriter.max_words, text=text)}


def _request(key: str, caption: str, rewriter: Rewriter) -> dict[str, Any]:
    return {
        "id": key,
        "messages": rewriter.messages(caption),
        "max_tokens": rewriter.max_new_tokens,
        "temperature": rewriter.temperature,
        "top_p": rewriter.top_p,
        "seed": rewriter.seed_of(caption),
    }


def _read(paths: Sequence[Path], captions: Mapping[str, str]) -> tuple[dict[str, Written], str]:
    """Responses by key, and the name of the model."""
    found: dict[str, Written] = {}
    models: set[str] = set()
    for where, row in _rows(paths):
        wrong = [name for name, kind in FIELDS.items() if not isinstance(row.get(name), kind)]
        if wrong:
            raise CaptionError(f"{where}: {wrong[0]} is missing or no text; a response has {', '.join(FIELDS)}")
        key = row["id"]
        if key not in captions:
            raise CaptionError(f"{where}: no caption has the id {key}; the responses are to requests of another table")
        written = Written(key, clean(row["text"]), row["finish"] == "length")
        if found.setdefault(key, written) != written:
            raise CaptionError(f"{where}: a second response to {key}, with another text; take one out")
        models.add(row["model"])
    if len(models) != 1:
        told = ", ".join(sorted(models)) or "none: the files have no rows"
        raise CaptionError(
            f"responses of one model are imported, these are of {told}; name the files in task.responses"
        )
    return found, models.pop()


def _rows(paths: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    for path in paths:
        if not path.is_file():
            raise CaptionError(f"{path} is not there; task.responses names the files that the engine wrote")
        try:
            rows = read_jsonl(path)
        except ValueError as error:
            raise CaptionError(f"{error}; let the engine go on with the same file, it mends the line") from error
        yield from (
            (f"{path} line {number}", row if isinstance(row, dict) else {}) for number, row in enumerate(rows, 1)
        )
