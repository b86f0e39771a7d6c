"""Replies of a judge, kept as they come in, so that an evaluation that was killed asks nothing twice."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from common.files import read_jsonl
from common.qa.judges import Chat, Reply
from common.qa.prompts import short_digest


class ReplyCache:
    """Appends a line for each reply: judge, prompt (digests), aspect, id, attempt, reply, model, time (UTC)."""

    def __init__(self, file: TextIO, rows: list[dict[str, Any]]) -> None:
        self._file = file
        self._rows = {(row["judge"], row["prompt"]): row for row in rows}

    def find(self, judge: str, chat: Chat) -> dict[str, Any] | None:
        """The line about a chat, if this judge has replied to the same messages."""
        return self._rows.get((judge, chat.prompt))

    def add(self, judge: str, chat: Chat, reply: Reply) -> dict[str, Any]:
        """Keeps a reply; it is on its way to the disk when this returns. A refusal is not kept: it is asked again."""
        row = {
            "judge": judge,
            "prompt": chat.prompt,
            "aspect": chat.aspect,
            "id": chat.id,
            "attempt": chat.attempt,
            "reply": reply.text,
            "model": reply.model,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._rows[judge, chat.prompt] = row
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()
        return row


def judge_digest(identity: Mapping[str, Any]) -> str:
    """Name of a judge in the cache."""
    return short_digest(dict(identity))


@contextmanager
def open_cache(path: Path) -> Iterator[ReplyCache]:
    """The cache in a file, for this process alone.

    Raises:
        ValueError: another process has it open, or a line of it is not JSON.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{path}: another evaluation writes here; wait for it or choose another output") from error
    try:
        _drop_partial_line(path)
        rows = read_jsonl(path) if path.exists() else []
        with open(path, "a", encoding="utf-8") as file:
            yield ReplyCache(file, rows)
    finally:
        lock.release()


def _drop_partial_line(path: Path) -> None:
    """Cuts what a killed process left of its last line."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
