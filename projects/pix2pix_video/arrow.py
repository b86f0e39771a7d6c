"""The set on disk: a DatasetDict of the library `datasets`, with the guide's three columns and our own beside them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import datasets
from datasets import Dataset, DatasetDict, Features, Image, List, Value

from common.progress import track
from projects.pix2pix_video.rows import EditRow

GUIDE: Final = ("input_frames", "edit_prompt", "edited_image")
OURS: Final = ("id", "task", "pair", "target_frame", "novel")
REMEDY = "make it with `python -m launchers.prepare task=edit_frames`"


class SetError(ValueError):
    """A folder is no set of edits, or not the one that was asked for; the message names the remedy."""


def features(history: int) -> Features:
    """Columns of a set with `history` frames a row."""
    return Features(
        {
            "input_frames": List(Value("string"), length=history),
            "edit_prompt": Value("string"),
            "edited_image": Image(),
            "id": Value("string"),
            "task": Value("string"),
            "pair": Value("string"),
            "target_frame": Value("string"),
            "novel": Value("bool"),
        }
    )


def write_set(folder: Path, splits: Mapping[str, Sequence[EditRow]], *, media: Path, history: int) -> None:
    """Writes a set; the target's file goes into it byte for byte, the history as relative paths.

    Args:
        folder: where to write; it exists and holds nothing.
        splits: rows by split, none of them empty.
        media: what the rows' paths are relative to.
        history: frames a row.
    """
    scratch = folder / ".rows"
    with _quiet():
        sets = {
            split: Dataset.from_generator(
                _examples,
                features=features(history),
                cache_dir=str(scratch),
                gen_kwargs={"rows": tuple(rows), "media": media, "split": split},
                split=datasets.NamedSplit(split),
            )
            for split, rows in splits.items()
        }
        DatasetDict(sets).save_to_disk(folder)
    for file in sorted(scratch.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    scratch.rmdir()


def _examples(rows: Sequence[EditRow], media: Path, split: str) -> Iterator[dict[str, Any]]:
    for row in track(rows, description=f"writing {split}"):
        yield {
            "input_frames": list(row.history),
            "edit_prompt": row.instruction,
            "edited_image": {"bytes": (media / row.target).read_bytes(), "path": None},
            "id": row.id,
            "task": row.task,
            "pair": row.pair,
            "target_frame": row.target,
            "novel": row.novel,
        }


def load_splits(folder: Path) -> DatasetDict:
    """The splits of a set as they are.

    Raises:
        SetError: there is no set, or only one split without a name.
    """
    try:
        opened = datasets.load_from_disk(str(folder))
    except FileNotFoundError as error:
        raise SetError(f"{folder} holds no set of edits; {REMEDY}") from error
    if not isinstance(opened, DatasetDict):
        raise SetError(f"{folder} holds one split without a name; save a DatasetDict, or {REMEDY}")
    return opened


def open_set(folder: Path) -> DatasetDict:
    """The splits of a set with the guide's columns; written by any version of `datasets`, by us or others.

    Raises:
        SetError: as `load_splits`, or a column of the guide's is missing or of another type.
    """
    opened = load_splits(folder)
    for split, rows in opened.items():
        faults = schema_faults(rows.features)
        if faults:
            raise SetError(f"{folder} split {split}: {'; '.join(faults)}; {REMEDY}")
    return opened


def schema_faults(found: Features) -> list[str]:
    """How columns differ from the guide's; columns that are ours may be missing."""
    faults = [f"no column {name}" for name in GUIDE if name not in found]
    if "input_frames" in found and not _is_paths(found["input_frames"]):
        faults.append(f"input_frames is {found['input_frames']}, not a list of strings")
    if "edit_prompt" in found and found["edit_prompt"] != Value("string"):
        faults.append(f"edit_prompt is {found['edit_prompt']}, not a string")
    if "edited_image" in found and not isinstance(found["edited_image"], Image):
        faults.append(f"edited_image is {found['edited_image']}, not an Image")
    wanted = features(1)
    wrong = [name for name in OURS if name in found and found[name] != wanted[name]]
    return faults + [f"{name} is {found[name]}, not {wanted[name]}" for name in wrong]


def _is_paths(feature: Any) -> bool:
    return isinstance(feature, List) and feature.feature == Value("string")


def parts_of(data: Dataset, split: str) -> tuple[list[EditRow], Dataset]:
    """The rows of a split, and its images: one column, "edited_image", as {"bytes", "path"}."""
    columns = data.remove_columns(["edited_image"])
    rows = [_row(example, split=split, number=number) for number, example in enumerate(columns)]
    return rows, data.select_columns(["edited_image"]).cast_column("edited_image", Image(decode=False))


def _row(example: Mapping[str, Any], *, split: str, number: int) -> EditRow:
    """A row from its columns; where a set of others' lacks one of ours, the id is its place and the rest empty."""
    return EditRow(
        id=example.get("id") or f"{split}/{number:06d}",
        history=tuple(example["input_frames"] or ()),
        target=example.get("target_frame") or "",
        instruction=example["edit_prompt"] or "",
        task=example.get("task") or "",
        pair=example.get("pair") or "",
        novel=bool(example.get("novel")),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars: `track` shows the progress."""
    shown = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not shown:
            datasets.enable_progress_bars()
