"""Files and weights that a configuration names: are they there, are they whole, and where to get them."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from common.config import CONF, ROOT
from common.doctor.row import Row, Status
from common.doctor.sources import heading, makers, terms_of
from common.weights.source import WeightsError, weights_folder

HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
NAMES = ("weights", "path", "preprocess", "tokenizer", "processor")  # keys whose value is a folder or a Hub id
READ = ("train", "val")  # parts of the data that training reads; the others are for evaluate and generate
LATER = ("test", "predict")
INDEX = ".index.json"  # of weights in several files
KINDS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # of files that weights are in


@dataclass(frozen=True)
class Place:
    """Where things are looked for.

    Attributes:
        data: the data folder, as the configuration has it.
        outputs: the folder of runs, likewise.
        conf: the configuration files.
        licences: content of LICENSES.md.
        chosen: the choice of the group `data`.
        prepared: what the tasks write that the run itself starts with: {folder or file: task}.
    """

    data: str
    outputs: str
    conf: Path
    licences: str
    chosen: str
    prepared: Mapping[str, str]


def place_of(tree: Mapping[str, Any], choices: Mapping[str, str], prepared: Mapping[str, str]) -> Place:
    """Where the files of a composed run are looked for."""
    licences = (ROOT / "LICENSES.md").read_text(encoding="utf-8")
    return Place(tree["paths"]["data"], tree["paths"]["outputs"], CONF, licences, choices["data"], prepared)


def file_rows(tree: Mapping[str, Any], place: Place) -> list[Row]:
    """Rows about everything that the model and the data of a composed configuration name."""
    named: dict[str, bool] = {}
    for key, value in _strings(tree["model"]):
        if key in NAMES and "/" in value:
            named[value] = named.get(value, False) or key == "weights"
    paths: dict[str, Status] = {}
    for part in LATER:
        paths |= {value: Status.WARN for _, value in _strings(tree["data"][part]) if _below(value, place)}
    for read in (*(tree["data"][part] for part in READ), tree["model"]):
        paths |= {value: Status.FAIL for _, value in _strings(read) if _below(value, place)}
    rows = [weights_row(name, place, numbers=numbers) for name, numbers in named.items()]
    others = sorted(paths.keys() - named.keys())
    return [*rows, *(path_row(name, place, missing=paths[name]) for name in others)]


def weights_row(name: str, place: Place, *, numbers: bool) -> Row:
    """A folder of weights or a Hub repository: there, and every file of it whole. Nothing is loaded or fetched.

    Args:
        name: folder, file or id.
        place: where things are looked for.
        numbers: whether weights are read from it, and not a tokenizer alone.
    """
    terms = _terms(" ".join([name, *_said(name, place)]), place)
    try:
        folder = Path(name) if Path(name).is_file() else weights_folder(name)
    except WeightsError as error:
        remedy = _remedy(name, place) or str(error).rpartition("; ")[2]
        return Row(Status.FAIL, name, "weights are not there", f"{remedy}{terms}")
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    if numbers and not any(path.suffix in KINDS for path in files):
        return Row(Status.FAIL, name, f"no weights are in {folder}", "fetch or make it again")
    broken = [reason for path in files if (reason := damage(path))]
    if broken:
        return Row(Status.FAIL, name, "; ".join(broken[:3]), "fetch or make it again")
    return Row(Status.PASS, name, f"weights are there{terms}")


def path_row(name: str, place: Place, *, missing: Status) -> Row:
    """A file or folder of data, or of another run."""
    path = Path(name)
    if path.exists() and (path.is_file() or any(path.iterdir())):
        return Row(Status.PASS, name, "is there")
    for made, task in sorted(place.prepared.items(), reverse=True):  # the innermost folder first
        if path.is_relative_to(made):
            return Row(Status.PASS, name, f"will be made by the run: {task}")
    when = "" if missing is Status.FAIL else " (for evaluate and generate)"
    if name.startswith(f"{place.outputs}/"):
        return Row(missing, name, f"is not there{when}", _remedy(name, place))
    said = heading(place.conf / "data" / f"{place.chosen}.yaml")
    return Row(missing, name, f"is not there{when}", f"{_remedy(name, place) or said}{_terms(said, place)}")


def _remedy(name: str, place: Place) -> str:
    """The command that makes or fetches something, if one is known."""
    if name.startswith(f"{place.outputs}/"):
        return f"python -m launchers.train experiment={Path(name).relative_to(place.outputs).parts[0]}"
    if name.startswith(f"{place.data}/"):
        return " or ".join(f"python -m launchers.prepare task={task}" for task in _tasks(name, place)[:3])
    return f"hf download {name}" if HUB.fullmatch(name) else ""


def _tasks(name: str, place: Place) -> list[str]:
    """Tasks that write what a name below the data folder means."""
    if not name.startswith(f"{place.data}/"):
        return []
    return makers(name.removeprefix(f"{place.data}/"), place.conf / "task")


def _said(name: str, place: Place) -> list[str]:
    """The files of the tasks that write something: they name what it is made from."""
    return [(place.conf / "task" / f"{task}.yaml").read_text(encoding="utf-8") for task in _tasks(name, place)]


def _terms(text: str, place: Place) -> str:
    """Licences of what a text names, in brackets."""
    found = "; ".join(f"{each.name}: {each.licence}" for each in terms_of(text, place.licences))
    return f" (licence: {found})" if found else ""


def damage(path: Path) -> str | None:
    """Why a file cannot be whole, by its size and what it says of itself; None where nothing speaks against it."""
    if path.suffix not in KINDS and not path.name.endswith(INDEX):
        return None
    if path.stat().st_size == 0:
        return f"{path.name} is empty"
    if path.name.endswith(INDEX):
        return _missing_part(path)
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt"):  # compares the size of the file with its header
            return None
    except SafetensorError as error:
        return f"{path.name} is damaged or cut off ({error})"


def _missing_part(index: Path) -> str | None:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (ValueError, KeyError):
        return f"{index.name} is damaged"
    missing = sorted({name for name in names if not (index.parent / name).is_file()})
    return f"{missing[0]} is missing" if missing else None


def _strings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Texts of a configuration with the keys that they stand under."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _strings(value, str(name))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _strings(value, key)
    elif isinstance(node, str):
        yield key, node


def _below(value: str, place: Place) -> bool:
    return any(value.startswith(f"{root}/") for root in (place.data, place.outputs))
