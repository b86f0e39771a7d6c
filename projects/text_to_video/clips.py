"""A table of clips: one row a clip, what is known of it, and the split that it belongs to; JSON lines."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

TABLE = "clips.jsonl"
RECORD = "clips.json"  # beside it: settings, counts, and the folder that paths are relative to
SPLITS: Final = ("train", "val", "test")
REMEDY = "make it with `python -m launchers.prepare task=openvid` or `task=video_table`"


class ClipTableError(ValueError):
    """A file is no table of clips, or a row of it cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One clip. What is None is not known without opening the video.

    Attributes:
        id: of the clip, unique in the table.
        video: path relative to the media folder, with "/".
        caption: as in the source.
        split: "train", "val" or "test".
        group: clips of one group, such as those cut from one video, are in one split.
        seconds: length; what decoding finds may be shorter.
        fps: frames a second.
        frames: number of frames that the source states.
        side: pixels that the shorter side has at least.
        aesthetic: score of the published aesthetic predictor, about 4.5 to 8.8 in OpenVid-1M.
        motion: mean optical flow as published, 0.02 to 161.
        consistency: temporal consistency, 0.83 to 1.
        camera: motion of the camera in words; empty where unknown.
        novel: held out for what it shows (built-in clips).
    """

    id: str
    video: str
    caption: str
    split: str = ""
    group: str = ""
    seconds: float | None = None
    fps: float | None = None
    frames: int | None = None
    side: int | None = None
    aesthetic: float | None = None
    motion: float | None = None
    consistency: float | None = None
    camera: str = ""
    novel: bool = False


COLUMNS: Final = tuple(field.name for field in fields(Clip))
NUMBERS: Final = ("seconds", "fps", "frames", "side", "aesthetic", "motion", "consistency")
WHOLE: Final = ("frames", "side")


def write_clips(path: Path, clips: Iterable[Clip]) -> None:
    """Writes the table row by row; the file is whole or absent. What is not known of a clip is left out of its row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            for clip in clips:
                row = {name: value for name in COLUMNS if (value := getattr(clip, name)) not in (None, "")}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_clips(path: str | Path, *, splits: Sequence[str] = SPLITS) -> Iterator[Clip]:
    """Yields the rows of a table in order, one in memory at a time.

    Args:
        path: of the table, or of the folder that holds it.
        splits: those that are wanted.

    Raises:
        ClipTableError: there is no table, it is damaged, or it has other columns.
    """
    place = table_path(path)
    if unknown := sorted(set(splits) - {*SPLITS}):
        raise ValueError(f"no split {unknown[0]}; there are {', '.join(SPLITS)}")
    with open(place, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                wanted = row["split"] in splits
                clip = Clip(**row)
            except (ValueError, TypeError, KeyError) as error:
                raise ClipTableError(
                    f"{place} line {number}: not a row of a table of clips ({error}); {REMEDY}"
                ) from error
            if wanted:
                yield clip


def table_path(path: str | Path) -> Path:
    """The file of a table that is named by its folder or itself.

    Raises:
        ClipTableError: it is not there.
    """
    place = Path(path) / TABLE if Path(path).is_dir() else Path(path)
    if not place.is_file():
        raise ClipTableError(f"no table of clips at {place}; {REMEDY}")
    return place


def record_of(path: str | Path) -> dict[str, Any]:
    """What the table's record says: "settings", "content", "figures".

    Raises:
        ClipTableError: it is not there.
    """
    place = table_path(path).with_name(RECORD)
    if not place.is_file():
        raise ClipTableError(f"{place} is missing beside the table; {REMEDY}")
    return dict(json.loads(place.read_text(encoding="utf-8")))


def media_of(path: str | Path, media: str | None = None) -> Path:
    """Folder that the paths of a table are relative to.

    Args:
        path: of the table.
        media: a folder that takes the place of the recorded one, after the videos have moved.
    """
    return Path(media) if media is not None else (table_path(path).parent / record_of(path)["media"]).resolve()
