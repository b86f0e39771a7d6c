"""Writes the data set to disk: the preparation task behind `python -m launchers.prepare task=shapes`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.files import atomic_write_text, write_jsonl
from common.shapes_world.language import TYPES, caption, questions
from common.shapes_world.media import Item, Look, draw_history, write_missing
from common.shapes_world.pairs import draw_pair
from common.shapes_world.scene import SPLITS, Scene, draw_scene

FORMAT = 1  # of clips, pictures and clips.jsonl, which are kept; the tables are written anew by every call
# Which media each part needs.
MEDIA = {"chat": "clips", "captions": "clips", "edits": "edits", "pairs": "pairs"}
Row = dict[str, Any]


def write(
    *,
    root: str | Path,
    seed: int = 0,
    clips: Mapping[str, int],
    edits: Mapping[str, int],
    pairs: Mapping[str, int],
    parts: Sequence[str] = ("chat", "captions"),
    size: int = 64,
    frames: int = 16,
    fps: float = 8.0,
    crf: int = 10,
    history: int = 20,
    lead: int = 4,
    workers: int | None = None,
) -> dict[str, int]:
    """Writes the asked parts of the data set, or what is still missing of them.

    Item i of a split is a function of (seed, split, i) and of the sizes below alone. Files that are there are
    kept, so a run that was killed goes on where it stopped and ends with the same bytes.

    Args:
        root: folder of the data set.
        seed: of everything drawn, >= 0.
        clips: number of clips by split ("train", "val", "test"), for the parts "chat" and "captions".
        edits: number of histories by split, for the part "edits"; each gives two rows.
        pairs: number of pairs of pictures by split, for the part "pairs".
        parts: what to write: "chat", "captions", "edits", "pairs". A later call may add parts.
        size: side of the pictures in pixels, even.
        frames: frames a clip, >= 8.
        fps: frames a second.
        crf: quality of H.264, 0 (lossless) to 51.
        history: frames before the frame to predict, >= 2.
        lead: frames from the last of the history to the one to predict, >= 1.
        workers: processes that draw and encode; by default one for each processor.

    Returns:
        Rows by part and split ("chat/train": 6012, ...), and "written": items drawn and encoded now.

    Raises:
        ValueError: an unknown part or split, or `root` holds a data set with other settings.
    """
    counts = {"clips": dict(clips), "edits": dict(edits), "pairs": dict(pairs)}
    _check(parts, counts)
    root = Path(root)
    look = Look(seed=seed, size=size, frames=frames, fps=fps, crf=crf, history=history, lead=lead)
    manifest = _open_manifest(root, {"format": FORMAT, **asdict(look), **counts})
    kinds = [kind for kind in counts if any(MEDIA[part] == kind for part in parts)]
    items = [
        Item(kind, root, split, index) for kind in kinds for split in SPLITS for index in range(counts[kind][split])
    ]
    written = write_missing(items, look, workers=workers)
    if "clips" in kinds and not (root / "clips.jsonl").exists():
        scenes = [_scene(look, split, i) for split in SPLITS for i in range(counts["clips"][split])]
        write_jsonl(root / "clips.jsonl", (_describe(scene, look) for scene in scenes))
    for part in parts:
        manifest["rows"][part] = {s: _write_rows(root, part, s, counts[MEDIA[part]][s], look) for s in SPLITS}
    manifest["rows"] = {part: manifest["rows"][part] for part in MEDIA if part in manifest["rows"]}
    _save_manifest(root, manifest)
    rows = {f"{part}/{split}": manifest["rows"][part][split] for part in parts for split in SPLITS}
    return {**rows, "written": written}


def _check(parts: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> None:
    unknown = [part for part in parts if part not in MEDIA]
    if unknown or not parts:
        raise ValueError(f"parts must be some of {list(MEDIA)}, not {list(parts)}")
    for key, by_split in counts.items():
        if sorted(by_split) != sorted(SPLITS) or min(by_split.values()) < 0:
            asked = dict(by_split)
            raise ValueError(f"{key} must give a number >= 0 for each of {list(SPLITS)}, not {asked}")


def _open_manifest(root: Path, settings: Row) -> Row:
    """The manifest of `root`; a new one is saved before any other file: a killed run is recognised too."""
    path = root / "manifest.json"
    if not path.exists():
        if root.is_dir() and any(root.iterdir()):
            raise ValueError(f"{root} holds files but no manifest.json of this data set; choose another root")
        manifest: Row = {"settings": settings, "rows": {}}
        _save_manifest(root, manifest)
        return manifest
    manifest = json.loads(path.read_text())
    found = manifest["settings"]
    differing = sorted(key for key in settings.keys() | found.keys() if settings.get(key) != found.get(key))
    if differing:
        told = ", ".join(f"{key}={found.get(key)} (asked: {settings.get(key)})" for key in differing)
        raise ValueError(f"{root} was written with {told}; remove the folder or choose another root")
    return dict(manifest)


def _save_manifest(root: Path, manifest: Row) -> None:
    atomic_write_text(root / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def _scene(look: Look, split: str, index: int) -> Scene:
    return draw_scene(seed=look.seed, split=split, index=index, size=look.size, frames=look.frames)


def _describe(scene: Scene, look: Look) -> Row:
    return {
        "id": scene.id,
        "split": scene.split,
        "video": f"clips/{scene.id}.mp4",
        "fps": look.fps,
        "frames": scene.frames,
        "size": scene.size,
        "background": scene.background,
        "things": [asdict(thing) for thing in scene.things],
        "novel": scene.held_out,
    }


def _write_rows(root: Path, part: str, split: str, count: int, look: Look) -> int:
    """Writes one table and returns its number of rows."""
    make = {"chat": _chat, "captions": _captions, "edits": _edits, "pairs": _pairs}[part]
    rows = [row for index in range(count) for row in make(look, split, index)]
    if part == "chat":
        text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
        atomic_write_text(root / part / f"{split}.json", text)
    else:
        write_jsonl(root / part / f"{split}.jsonl", rows)
    return len(rows)


def _chat(look: Look, split: str, index: int) -> list[Row]:
    scene = _scene(look, split, index)
    return [
        {
            "id": f"{scene.id}/{asked.type}",
            "messages": [
                {"role": "user", "content": f"<video>{asked.question}"},
                {"role": "assistant", "content": asked.answer},
            ],
            "videos": [f"clips/{scene.id}.mp4"],
            "type": asked.type,
            "options": asked.options,
            "choices": asked.choices,
            "novel": asked.novel,
        }
        for asked in sorted(questions(scene, seed=look.seed), key=lambda asked: TYPES.index(asked.type))
    ]


def _captions(look: Look, split: str, index: int) -> list[Row]:
    scene = _scene(look, split, index)
    video = f"clips/{scene.id}.mp4"
    return [{"id": scene.id, "video": video, "caption": caption(scene), "novel": scene.held_out}]


def _edits(look: Look, split: str, index: int) -> list[Row]:
    edits = draw_history(look, split, index)
    *targets, history = Item("edits", Path(), split, index).names
    return [
        {
            "id": f"{split}/{index:06d}/{edit.kind}",
            "history": history,
            "instruction": edit.instruction,
            "target": target,
            "kind": edit.kind,
            "novel": edit.novel,
        }
        for edit, target in zip(edits, targets, strict=True)
    ]


def _pairs(look: Look, split: str, index: int) -> list[Row]:
    pair = draw_pair(seed=look.seed, split=split, index=index)
    first, second = Item("pairs", Path(), split, index).names
    return [
        {
            "id": f"{split}/{index:06d}",
            "detail": pair.detail,
            "first": first,
            "second": second,
            "captions": list(pair.captions),
            "novel": pair.novel,
        }
    ]
