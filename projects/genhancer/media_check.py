"""The preparation task that looks at every row once and lists those that cannot be read, for data.*.unreadable."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from common.data.tar import TarError
from common.files import atomic_write_text
from common.progress import track
from common.types import Build
from common.video.clip import VideoReadError
from projects.genhancer.media import Media

log = logging.getLogger(__name__)
TASK = "python -m launchers.prepare task=media_check"
SHOWN = 5  # rows that a message quotes


class Looked(Dataset[str]):
    """For each row why it cannot be read, or "" where it can."""

    def __init__(self, media: Media) -> None:
        self.media = media

    def __len__(self) -> int:
        return len(self.media)

    def __getitem__(self, number: int) -> str:
        try:
            self.media.show(number, lambda seconds: range(len(seconds)))
        except (VideoReadError, TarError) as error:
            return str(error)
        return ""


def media_check(
    *, media: Mapping[str, Build[Media]], listed: str, max_unreadable: float, num_workers: int
) -> dict[str, int]:
    """Decodes all frames of all rows, and writes <listed>/<split>.json.

    Args:
        media: recipe of the rows of each split.
        listed: folder of the lists.
        max_unreadable: greatest share of the rows of a split that may be unreadable.
        num_workers: decoding processes; 0 decodes in this one.

    Returns:
        Rows and unreadable ones, by split.

    Raises:
        ValueError: more are unreadable; the list is written all the same.
    """
    figures: dict[str, int] = {}
    for split, recipe in media.items():
        rows, path = recipe(), Path(listed) / f"{split}.json"
        if not path.is_file() or json.loads(path.read_text())["rows"] != rows.fingerprint:
            _look(rows, path, num_workers)
        bad = json.loads(path.read_text())["unreadable"]
        for name, reason in list(bad.items())[:SHOWN]:
            log.warning("%s: %s", name, reason)
        if len(bad) > max_unreadable * len(rows):
            raise ValueError(
                f"{len(bad)} of {len(rows)} rows of {split} cannot be read, more than "
                f"task.max_unreadable={max_unreadable:g}; see {path}"
            )
        figures |= {split: len(rows), f"{split} unreadable": len(bad)}
    return figures


def _look(rows: Media, path: Path, num_workers: int) -> None:
    workers = min(num_workers, len(rows))
    loader = DataLoader(Looked(rows), batch_size=None, num_workers=workers, prefetch_factor=16 if workers else None)
    reasons = track(iter(loader), description=f"looking at {path.stem}", total=len(rows))
    bad = {rows.name(number): reason for number, reason in enumerate(reasons) if reason}
    atomic_write_text(path, json.dumps({"rows": rows.fingerprint, "unreadable": bad}, indent=1) + "\n")


def unreadable(path: str, rows: Media) -> frozenset[str]:
    """Names of the rows that a list says cannot be read.

    Raises:
        ValueError: there is no list, or it is one of other rows.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{file} is not there; make it with {TASK}, or set data.*.unreadable=null")
    found = json.loads(file.read_text())
    if found["rows"] != rows.fingerprint:
        raise ValueError(f"{file} is a list of other rows; make it anew with {TASK}, or set data.*.unreadable=null")
    return frozenset(found["unreadable"])
