"""The preparation task that writes real clips as a model sees them, to compare generated ones with (FVD)."""

import json
import logging
from pathlib import Path
from typing import Any

from common.files import atomic_write_text
from common.progress import track
from common.video.decode import VideoReadError
from projects.text_to_video.clip_frames import Crop, check, clip_frames
from projects.text_to_video.clip_lists import clip_lists
from projects.text_to_video.output import stem_of, write_clip

log = logging.getLogger(__name__)
RECORD = "clips.json"


def reference_clips(
    *,
    table: str,
    media: str | None,
    split: str,
    count: int,
    folder: str,
    frames: int,
    fps: float,
    size: list[int],
    crop: Crop,
    backend: str,
) -> dict[str, Any]:
    """Writes the first clips of a split that are long enough, with the encoder that `generate` writes with.

    A distance of generated and real clips says something of the model only where both have the same frame rate,
    length and crop, and have gone through the same encoder.

    Args:
        table: list of the clips, see `clip_lists`.
        media: folder of the videos; None for where the list says.
        split: of the list.
        count: clips to write.
        folder: of the MP4 files and `clips.json`; what is there already stays.
        frames: of each clip; shorter ones are left out.
        fps: frames a second.
        size: height and width in pixels, both even.
        crop: "centre" or "squash", see `clip_frames`.
        backend: video reader.

    Returns:
        Counts: clips that are there, clips written now, clips that are too short, unreadable ones.

    Raises:
        ValueError: too few clips, or the folder holds clips made otherwise.
    """
    check(crop, fps)
    where, settings = Path(folder), {"frames": frames, "fps": fps, "size": list(size), "crop": crop, "split": split}
    splits, root = clip_lists(table, media)
    _refuse_others(where, settings)
    listed, found = splits.get(split, []), {"clips": 0, "written": 0, "short": 0, "unreadable": 0}
    progress = iter(track(range(count), description="real clips", total=count))
    for clip in listed:
        if found["clips"] == count:
            break
        if not (where / f"{stem_of(clip.id)}.mp4").is_file():
            try:
                pixels = clip_frames(
                    root / clip.video, fps=fps, frames=frames, size=(size[0], size[1]), crop=crop, backend=backend
                )
            except VideoReadError as error:
                log.warning("left out: %s", error)
                found["unreadable"] += 1
                continue
            if len(pixels) < frames:
                found["short"] += 1
                continue
            write_clip(where, clip.id, pixels, fps=fps, file=str(where / f"{stem_of(clip.id)}.mp4"))
            found["written"] += 1
        found["clips"] += 1
        next(progress, None)
    if found["clips"] < count:
        raise ValueError(
            f"{table}: split {split} has {found['clips']} clips of {frames} frames at {fps} a second "
            f"({found['short']} are shorter, {found['unreadable']} unreadable), task.count={count} asks for more"
        )
    return {**found, "folder": folder}


def _refuse_others(folder: Path, settings: dict[str, Any]) -> None:
    """Writes how the clips of a folder are made, or raises ValueError where it holds others."""
    record = folder / RECORD
    if record.is_file():
        there = json.loads(record.read_text(encoding="utf-8"))
        if there != settings:
            other = [key for key in settings if there.get(key) != settings[key]]
            told = ", ".join(f"{key}={there.get(key)} (not {settings[key]})" for key in other)
            raise ValueError(f"{folder} holds clips of {told}; name another task.folder")
        return
    atomic_write_text(record, json.dumps(settings, indent=2) + "\n")
