"""Folders that a preparation task makes once: whole or absent, and known by what they were made from."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.files import atomic_folder

RECORD = "made.json"


def make_folder(
    target: Path, *, source: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
) -> dict[str, Any]:
    """Makes `target`, unless it is there and was made from the same.

    Args:
        target: the folder.
        source: what the content depends on: settings and digests of files, as JSON.
        make: fills a temporary folder and returns a few figures; it appears as `target` only when this ends well.

    Returns:
        The figures, of this time or of the time when it was made.

    Raises:
        ValueError: `target` is there with other content.
    """
    wanted = json.loads(json.dumps(source))
    record = target / RECORD
    if target.exists():
        found = json.loads(record.read_text()) if record.is_file() else None
        if found is None or found["source"] != wanted:
            raise ValueError(f"{target} is there and was made from something else; remove it or choose another folder")
        return dict(found["figures"])
    with atomic_folder(target) as temporary:
        figures = dict(make(temporary))
        (temporary / RECORD).write_text(json.dumps({"source": wanted, "figures": figures}, indent=2) + "\n")
    return figures
