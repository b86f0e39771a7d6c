"""Label files of Something-Something V2 (arXiv:1706.04261), as they are published: a JSON list for each split."""

import json
from pathlib import Path
from typing import Any, NamedTuple


class LabelError(ValueError):
    """A label file cannot be read; names it and the remedy."""


class LabelRow(NamedTuple):
    """A clip of a label file.

    Attributes:
        id: of the clip; its file is <id>.webm.
        label: what happens in it, with the names of the things; None in the test file.
        template: the class, with [something] for the things; None in the test file.
        where: file and row, for messages.
    """

    id: str
    label: str | None
    template: str | None
    where: str


def read_labels(path: Path) -> list[LabelRow]:
    """The rows of a label file, in its order.

    Raises:
        LabelError: it is not there, or not a list of {id, label, template}.
    """
    if not path.is_file():
        raise LabelError(f"{path} is not there; see task.source.labels")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise LabelError(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
        raise LabelError(f"{path} is not a list of {{id, label, template}}; see task.source.labels")
    return [
        LabelRow(str(row["id"]), _text(row.get("label")), _text(row.get("template")), f"{path} row {number}")
        for number, row in enumerate(rows)
    ]


def without_brackets(template: str) -> str:
    """The template as the official list of classes writes it."""
    return template.replace("[", "").replace("]", "").strip()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
