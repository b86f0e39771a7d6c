"""Small sources of edits on disk: folders of numbered frames with metadata, and clips with official labels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from projects.pix2pix_video.edit_frames import make_edit_frames
from projects.pix2pix_video.sources.guide import GuideLayout
from tests.common.video.files import draw, encode, number_of, retimed

SIZE = (64, 96)  # height, width
HISTORY = 20
SETTINGS: dict[str, Any] = {
    "history": HISTORY,
    "gap": 1,
    "stride": 1,
    "step": None,
    "anchor": "end",
    "merge": [],
    "holdout": 0.3,
    "seed": 0,
    "max_skipped": 0.0,
    "workers": 1,
}
VP9 = (
    "-c:v",
    "libvpx-vp9",
    "-deadline",
    "realtime",
    "-cpu-used",
    "8",
    "-pix_fmt",
    "yuv420p",
    "-crf",
    "20",
    "-b:v",
    "0",
)


def write_clip(folder: Path, first: int = 0, count: int = 21, suffix: str = "jpg") -> None:
    """Frames 00..: each carries the number `first` + its place."""
    folder.mkdir(parents=True)
    for place in range(count):
        Image.fromarray(draw(first + place)).save(folder / f"{place:02d}.{suffix}", quality=95)


def shown_in(path: Path) -> int:
    """The number that a frame carries."""
    return number_of(np.asarray(Image.open(path)))


def write_guide(root: Path, clips: Mapping[str, Sequence[str]], *, metadata: str = "metadata.json") -> Path:
    """A root with these clips by split ("move_object/video_1"), all named in one file of metadata."""
    rows = []
    for split, names in clips.items():
        for number, name in enumerate(names):
            write_clip(root / split / name, first=100 * number)
            task = name.split("/")[0]
            rows.append({"video_path": f"{split}/{name}", "instruction": f"do {name}", "task_type": task})
    text = json.dumps(rows) if metadata.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    (root / metadata).write_text(text)
    return root


def edit_metadata(root: Path, rows: Sequence[Any]) -> None:
    """Adds rows to the metadata of a root."""
    path = root / "metadata.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), *rows]))


def make(root: Path, folder: Path, *, clip_frames: int | None = 21, **changes: Any) -> dict[str, Any]:
    """The set of a guide's root."""
    source = GuideLayout(root=str(root), clip_frames=clip_frames)
    return make_edit_frames(source=source, folder=str(folder), **{**SETTINGS, **changes})


def write_webm(path: Path, count: int, fps: int = 12) -> Path:
    """A clip whose frame i carries the number i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return encode(path, count, *retimed(f"N*1000/{fps}"), *VP9)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
