"""Folders of numbered frames: {train,val,test}/<task>/video_*/00..20.jpg, with metadata that names instructions."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.files import digest
from common.processes import each
from common.video.clip import VideoReadError
from projects.pix2pix_video.pictures import read_rgb, stack
from projects.pix2pix_video.rows import EditRow
from projects.pix2pix_video.sources.found import SPLITS, Found, Sample, Skipped, SourceError
from projects.pix2pix_video.sources.metadata import Entry, Fault, entries, metadata_files
from projects.pix2pix_video.sources.windows import Window, Windows

SUFFIXES = {".jpg", ".jpeg", ".png"}


class Trouble(NamedTuple):
    """Why a clip cannot be used."""

    file: str
    reason: str


class GuideLayout:
    """Clips as folders of frames that are numbered from 0."""

    def __init__(self, *, root: str, clip_frames: int | None = 21) -> None:
        """Names the folder.

        Args:
            root: holds the splits.
            clip_frames: frames of every clip, numbered from 0: a clip with fewer or more is incomplete. None takes
                clips of any length whose numbers have no gap.
        """
        self.root, self.clip_frames = Path(root), clip_frames
        if clip_frames is not None and clip_frames < 2:
            raise ValueError(f"task.source.clip_frames={clip_frames} must be 2 or more")

    @property
    def media(self) -> Path:
        """The root: nothing is copied."""
        return self.root

    def identity(self) -> Mapping[str, Any]:
        """Digests of the metadata, and one over names and sizes of all frames."""
        self._check_root()
        state = hashlib.blake2b(digest_size=16)
        for clip, frames in sorted(self._on_disk().items()):
            for frame in frames:
                state.update(f"{clip}/{frame.name} {frame.stat().st_size}\n".encode())
        metadata = {file.relative_to(self.root).as_posix(): digest(file) for file in metadata_files(self.root)}
        return {
            "source": "guide",
            "clip_frames": self.clip_frames,
            "metadata": metadata,
            "frames": state.hexdigest(),
        }

    def collect(self, windows: Windows, *, workers: int) -> Found:
        """Reads the metadata, looks at every frame that a row needs, and lists rows and what is left out."""
        self._check_root()
        found = Found()
        listed = self._listed(found)
        disk = self._on_disk()
        for clip in sorted(disk.keys() - listed.keys()):
            found.skipped.append(Skipped(clip, clip.split("/")[0], clip, "no metadata names it"))
        jobs = [(self.root, clip, disk.get(clip, []), self.clip_frames, windows) for clip in listed]
        results = each(_look, jobs, workers=workers, description="looking at clips")
        for (clip, rows), result in zip(listed.items(), results, strict=True):
            if isinstance(result, Trouble):
                found.skipped.append(Skipped(clip, clip.split("/")[0], result.file, result.reason))
            else:
                found.samples += _samples(clip, rows, result, windows)
        found.clips = len(disk.keys() | listed.keys())
        return found

    def _check_root(self) -> None:
        if not (self.root / "train").is_dir():
            raise SourceError(
                f"{self.root / 'train'} is no folder; task.source.root is the folder that holds the splits"
            )

    def _listed(self, found: Found) -> dict[str, list[Entry]]:
        """Instructions by clip; a row that two files give alike is one."""
        listed: dict[str, list[Entry]] = {}
        for file in metadata_files(self.root):
            for entry in entries(file, self.root):
                if isinstance(entry, Fault):
                    found.skipped.append(Skipped(entry.where, "", str(entry.file), entry.reason))
                    continue
                here = listed.setdefault(entry.clip, [])
                same = next((other for other in here if other.instruction == entry.instruction), None)
                if same is None:
                    here.append(entry)
                elif same.file == entry.file:
                    found.skipped.append(Skipped(entry.where, "", str(file), f"says the same as {same.where}"))
        return listed

    def _on_disk(self) -> dict[str, list[Path]]:
        """Files of frames by clip, in the order of their names."""
        clips: dict[str, list[Path]] = {}
        for split in SPLITS:
            for folder, _, names in os.walk(self.root / split, followlinks=True):
                frames = [Path(folder, name) for name in sorted(names) if _number(Path(name)) is not None]
                if frames:
                    clips[Path(folder).relative_to(self.root).as_posix()] = frames
        return clips


def _number(path: Path) -> int | None:
    return int(path.stem) if path.suffix.lower() in SUFFIXES and path.stem.isdecimal() else None


def _look(job: tuple[Path, str, Sequence[Path], int | None, Windows]) -> list[tuple[Window, list[str]]] | Trouble:
    """The windows of a clip with the files of their frames (the target last), or why it has none."""
    root, clip, files, wanted, windows = job
    frames: dict[int, Path] = {}
    for file in files:
        number = _number(file)
        assert number is not None
        if number in frames:
            return Trouble(f"{clip}/{file.name}", f"has the number of {frames[number].name}")
        frames[number] = file
    trouble = _gaps(clip, frames, wanted)
    if trouble:
        return trouble
    found = windows.of(len(frames))
    if not found:
        return Trouble(clip, f"has {len(frames)} frames, a window takes {windows.span}")
    try:
        stack([(frames[n], read_rgb(frames[n])) for n in sorted({n for w in found for n in (*w.history, w.target)})])
    except VideoReadError as error:
        return Trouble(Path(error.path).relative_to(root).as_posix(), error.reason)
    return [(w, [frames[n].relative_to(root).as_posix() for n in (*w.history, w.target)]) for w in found]


def _gaps(clip: str, frames: Mapping[int, Path], wanted: int | None) -> Trouble | None:
    count = wanted or max(frames, default=0) + 1
    missing = [number for number in range(count) if number not in frames]
    if missing:
        return Trouble(f"{clip}/{missing[0]:02d}.jpg", f"is missing ({len(missing)} of {count} frames are)")
    beyond = sorted(number for number in frames if number >= count)
    if beyond:
        return Trouble(
            f"{clip}/{frames[beyond[0]].name}", f"lies beyond the {count} frames of a clip; set task.source.clip_frames"
        )
    return None


def _samples(
    clip: str, rows: Sequence[Entry], found: Sequence[tuple[Window, list[str]]], windows: Windows
) -> list[Sample]:
    samples = []
    split, *between, _ = clip.split("/")
    for window, files in found:
        name = clip if windows.step is None else f"{clip}/{window.history[0]:04d}"
        for number, entry in enumerate(rows, start=1):
            row = EditRow(
                id=name if number == 1 else f"{name}/instruction_{number}",
                history=tuple(files[:-1]),
                target=files[-1],
                instruction=entry.instruction,
                task=entry.task or "/".join(between),
                pair=name if len(rows) > 1 else "",
            )
            samples.append(Sample(row, split, clip))
    return samples
