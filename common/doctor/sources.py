"""Where data and weights come from: the preparation task that makes a folder, and the terms of LICENSES.md."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

OUTPUTS = ("cache", "target", "folder", "root")  # keys of a task that name what it writes, the surest first
REPORTS = {"report", "output", "out"}
DATA = "${paths.data}/"
SIBLING = re.compile(r"\$\{\.(\w+)\}")


class Terms(NamedTuple):
    """A row of LICENSES.md."""

    name: str
    licence: str


def terms_of(text: str, page: str) -> list[Terms]:
    """The rows of a page of licences whose weights or data a text names.

    Args:
        text: the id of a Hub repository, or sentences about data.
        page: content of LICENSES.md.
    """
    return [row for row in _rows(page) if any(name.lower() in text.lower() for name in _names(row.name))]


def _rows(page: str) -> Iterator[Terms]:
    for line in page.partition("## Weights")[2].splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3 and cells[1] != "licence":
            yield Terms(cells[0], cells[1])


def _names(cell: str) -> Iterator[str]:
    """Names in the first cell: `owner/model-7b, -0.5b` stands for one of each ending."""
    first = ""
    for part in (each.strip() for each in re.sub(r"\(.*?\)", "", cell).split(",")):
        if part.startswith("-"):
            yield first.rsplit("-", part.count("-"))[0] + part
        elif part:
            first = part
            yield part


def makers(path: str, tasks: Path) -> list[str]:
    """Preparation tasks that write a folder or a file, by name.

    Args:
        path: below the data folder, without it: `video_instruct/clip_features`.
        tasks: folder of the tasks' configuration files.
    """
    found = {file.stem: written for file in sorted(tasks.glob("*.yaml")) if (written := _written(file))}
    exact = [name for name, written in found.items() if written == path]
    return exact or [name for name, written in found.items() if path.startswith(f"{written}/")]


def _written(file: Path) -> str | None:
    """What a task writes below the data folder, by its defaults."""
    node = _node(file)
    path = written(node, DATA)
    return None if path is None else SIBLING.sub(lambda match: str(node[match.group(1)]), path)


def written(task: Mapping[str, Any], data: str) -> str | None:
    """What a task writes below the data folder, without it; None for nothing. A folder beside another output is read.

    Args:
        task: its configuration, composed or as its file has it.
        data: how values begin that are below the data folder.
    """
    for key in OUTPUTS:
        value = task.get(key)
        if isinstance(value, str) and value.startswith(data) and not (key == "folder" and {*task} & REPORTS):
            return value.removeprefix(data)
    return None


def _node(file: Path) -> dict[str, Any]:
    """A task with what it takes over from others; their lists of defaults name files beside it or in its parts."""
    own: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(own, dict):
        return {}
    node: dict[str, Any] = {}
    for default in own.get("defaults", []):
        base = file.parent / f"{str(default).removesuffix('@_here_')}.yaml"
        node |= _node(base) if base.is_file() else {}
    return node | own


def heading(file: Path) -> str:
    """The comment that a configuration file opens with, as one line."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return " ".join(line for line in lines if not line.startswith("@package"))
