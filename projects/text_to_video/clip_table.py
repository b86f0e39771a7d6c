"""From what a source lists to a table of the clips that are on disk, kept by limits, split by name."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.files import atomic_write_text, write_jsonl
from common.random import mix
from common.video.clip import VideoReadError
from common.video.decode import probe as probe_video
from projects.text_to_video.clips import RECORD, SPLITS, TABLE, Clip, ClipTableError, write_clips
from projects.text_to_video.limits import Limits

log = logging.getLogger(__name__)
FORMAT = 1
MISSING = "missing.jsonl"
SPACE = 2**63  # of the numbers that `mix` gives
NOWHERE = "not on disk"
Row = dict[str, Any]


class Listing:
    """Which files a folder has; each folder below it is listed once, instead of asking for each file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, frozenset[str]] = {}

    def has(self, path: str) -> bool:
        """Whether there is something at a relative path."""
        folder, _, name = path.rpartition("/")
        if folder not in self._names:
            try:
                with os.scandir(self.root / folder) as entries:
                    self._names[folder] = frozenset(entry.name for entry in entries)
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = frozenset()
        return name in self._names[folder]


class Holdout:
    """Splits by hash: a clip's place depends on its group and the seed alone, not on other clips or their order."""

    def __init__(self, shares: Mapping[str, float], *, seed: int) -> None:
        """
        Args:
            shares: of "val" and "test", all together below 1.
            seed: another one holds out other clips.

        Raises:
            ValueError: another split, or shares that leave nothing for training.
        """
        unknown = sorted(set(shares) - {*SPLITS[1:]})
        if unknown or any(share < 0 for share in shares.values()) or sum(shares.values()) >= 1:
            raise ValueError(f"task.holdout={dict(shares)}: shares of val and test, from 0 and below 1 together")
        self.shares, self.seed = {name: float(shares[name]) for name in SPLITS[1:] if name in shares}, seed

    def place(self, clip: Clip) -> Clip:
        """The clip with its split; one that the source has placed stays there."""
        if clip.split:
            return clip
        number = mix("holdout", self.seed, clip.group or clip.id) / SPACE
        for name, share in self.shares.items():
            if number < share:
                return replace(clip, split=name)
            number -= share
        return replace(clip, split="train")


@dataclass
class Tally:
    """What became of the rows of a source."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    missing: list[Row] = field(default_factory=list)
    splits: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def write_table(
    clips: Iterable[Clip],
    *,
    folder: Path,
    media: Path,
    limits: Limits,
    holdout: Holdout,
    source: Mapping[str, Any],
    probe: bool = False,
    max_missing: float = 0.0,
    reasons: Callable[[set[str]], Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Writes `clips.jsonl`, `clips.json` and `missing.jsonl`.

    The table follows from its inputs alone; made again after more videos have arrived, it grows, and clips that were
    held out stay so. Limits and splits of a table that is there are not changed.

    Args:
        clips: what the source lists, in the order that the table will have.
        folder: for the three files.
        media: folder that the paths of the clips are relative to.
        limits: which of them are taken.
        holdout: gives a split to those that have none.
        source: name and settings of the source, as JSON.
        probe: open the files whose length is not known.
        max_missing: greatest share, of the clips within the limits, that may be missing.
        reasons: for names of missing videos, where they are, in words for the list.

    Returns:
        Counts: rows, each split, hours, missing, and `dropped_<limit>`.

    Raises:
        ClipTableError: rows that appear twice, too much is missing, nothing is left, or the folder holds a table that
            was made with other settings.
    """
    if not 0 <= max_missing <= 1:
        raise ValueError(f"task.max_missing={max_missing} is a share from 0 to 1")
    settings = {
        "format": FORMAT,
        "source": dict(source),
        "limits": limits.settings(),
        "holdout": holdout.shares,
        "seed": holdout.seed,
    }
    _refuse_other(folder / RECORD, settings)
    tally, draft = Tally(), folder / f".{TABLE}.draft"
    try:
        kept = _kept(_once(clips), tally, Listing(media), limits, probe=probe)
        write_clips(draft, _counted((holdout.place(clip) for clip in kept), tally))
        missing = _with_reasons(tally.missing, reasons)
        write_jsonl(folder / MISSING, missing)
        _refuse_gaps(tally, missing, folder / MISSING, max_missing)
        figures = _figures(tally)
        record = {"settings": settings, "content": _checksum(draft), "figures": figures}
        record["media"] = os.path.relpath(media.resolve(), folder.resolve())
        _put(draft, folder, record)
    finally:
        draft.unlink(missing_ok=True)
    return figures


def _refuse_other(path: Path, settings: Mapping[str, Any]) -> None:
    if not path.is_file():
        return
    found = json.loads(path.read_text(encoding="utf-8"))["settings"]
    wanted = json.loads(json.dumps(settings))
    if found != wanted:
        changed = sorted(key for key in wanted if found.get(key) != wanted[key])
        raise ClipTableError(
            f"{path.parent} holds a table made with other settings ({', '.join(changed)}); remove it or choose another "
            "task.folder"
        )


def _once(clips: Iterable[Clip]) -> Iterator[Clip]:
    seen: set[str] = set()
    for clip in clips:
        for name in {clip.id, clip.video}:
            if name in seen:
                raise ClipTableError(f"two rows of the source are about {name}; take one out")
            seen.add(name)
        yield clip


def _kept(clips: Iterable[Clip], tally: Tally, listing: Listing, limits: Limits, *, probe: bool) -> Iterator[Clip]:
    for clip in clips:
        tally.rows += 1
        present = listing.has(clip.video)
        if not present and any(getattr(clip, name) is None for name in limits.ranges):
            tally.missing.append({"video": clip.video, "reason": NOWHERE})
            continue
        if present and probe and clip.seconds is None:
            try:
                clip = _probed(clip, listing.root)
            except VideoReadError as error:
                tally.missing.append({"video": clip.video, "reason": f"cannot be read: {error.reason}"})
                continue
        broken = limits.broken_by(clip)
        if broken is not None:
            tally.dropped[broken] += 1
        elif present:
            yield clip
        else:
            tally.missing.append({"video": clip.video, "reason": NOWHERE})


def _probed(clip: Clip, media: Path) -> Clip:
    """The clip with what its packets tell; no frame is decoded."""
    info = probe_video(media / clip.video)
    seconds = info.num_frames / info.fps if info.fps else 0.0  # of a single picture
    side = min(info.height, info.width)
    return replace(clip, seconds=float(seconds), fps=float(info.fps), frames=int(info.num_frames), side=int(side))


def _counted(clips: Iterable[Clip], tally: Tally) -> Iterator[Clip]:
    for clip in clips:
        tally.splits[clip.split] += 1
        tally.seconds += clip.seconds or 0.0
        yield clip


def _with_reasons(missing: list[Row], reasons: Callable[[set[str]], Mapping[str, str]] | None) -> list[Row]:
    if reasons is None or not missing:
        return missing
    known = reasons({row["video"] for row in missing})
    return [{**row, "reason": known.get(row["video"], row["reason"])} for row in missing]


def _refuse_gaps(tally: Tally, missing: list[Row], path: Path, max_missing: float) -> None:
    """Logs what is missing, by reason, and refuses more than may be."""
    wanted = len(missing) + sum(tally.splits.values())
    for reason, count in Counter(row["reason"] for row in missing).most_common(20):
        log.warning("missing: %d clips, %s", count, reason)
    if not tally.splits:
        raise ClipTableError(
            f"of {tally.rows} rows, {sum(tally.dropped.values())} are outside the limits ({dict(tally.dropped)}) and "
            f"{len(missing)} are missing (see {path}); nothing is left for a table"
        )
    if len(missing) > max_missing * wanted:
        raise ClipTableError(
            f"{len(missing)} of {wanted} clips within the limits are missing, more than "
            f"task.max_missing={max_missing}; they are listed in {path}. Fetch them, or allow more"
        )


def _figures(tally: Tally) -> dict[str, Any]:
    dropped = {f"dropped_{name}": count for name, count in sorted(tally.dropped.items())}
    splits = {name: tally.splits[name] for name in SPLITS if tally.splits[name]}
    hours = round(tally.seconds / 3600, 2)
    return {"rows": tally.rows, **splits, "hours": hours, "missing": len(tally.missing), **dropped}


def _put(draft: Path, folder: Path, record: Mapping[str, Any]) -> None:
    """Moves the draft into its place; a table that says the same stays untouched."""
    text = json.dumps(record, indent=1) + "\n"
    table, place = folder / TABLE, folder / RECORD
    same = place.is_file() and place.read_text(encoding="utf-8") == text
    if same and table.is_file() and _checksum(table) == record["content"]:
        return
    if place.is_file():
        log.info("%s is made again: the source or the videos have changed", table)
    draft.replace(table)
    atomic_write_text(place, text)


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
