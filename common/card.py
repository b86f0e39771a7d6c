"""The model card of an export, written from the record of its run; says nothing that the record does not."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but imported lazily there

from common.checkpoint import Manifest
from common.config import ROOT
from common.run import Start, flatten

LIBRARY = "framelab"
# Rows of the recipe, where the configuration has them.
RECIPE = {
    "global batch": "batch.global",
    "micro-batch of a device": "batch.micro",
    "devices": "trainer.devices",
    "nodes": "trainer.num_nodes",
    "precision": "trainer.precision",
    "gradient clipping (norm)": "trainer.gradient_clip_val",
    "seed": "seed",
    "started from": "init",
}
# Keys of the model that belong to the recipe, by their ends and their beginnings.
MODEL_RECIPE = ("lr", "weight_decay")
MODEL_RECIPES = tuple(f"model.{part}" for part in ("optimizer.", "schedule.", "lr.", "train.", "adapter"))
MAX_PARTS = 8  # rows of the table of what was trained


@dataclass(frozen=True)
class Card:
    """What a layout says of itself.

    Args:
        form: what the files are, Markdown.
        usage: the command or the code that uses them, Markdown.
        library: that loads them, by its name on the Hub.
        task: that this library performs with them, by its name on the Hub; None where it has none.
        tags: further tags.
    """

    form: str
    usage: str
    library: str = LIBRARY
    task: str | None = None
    tags: tuple[str, ...] = ()


def model_card(
    card: Card,
    *,
    config: Mapping[str, Any],
    manifest: Manifest,
    start: Start,
    shapes: Mapping[str, Sequence[int]],
    license_name: str | None,
    rows: int | None = None,
) -> str:
    """Markdown with a YAML front matter as the Hub reads it.

    Args:
        card: of the layout.
        config: composed configuration of the run.
        manifest: of the checkpoint.
        start: newest start of the run.
        shapes: of what was trained, by parameter name.
        license_name: name on the Hub, or None if not known.
        rows: of the training data, or None if not known.
    """
    name = str(config["name"])
    data = ModelCardData(
        library_name=card.library,
        pipeline_tag=card.task,
        license=license_name,
        base_model=hub_ids(config) or None,
        tags=sorted({LIBRARY, name, *card.tags}),
    )
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# {name}",
        card.form,
        "## Use\n\n" + card.usage.strip(),
        "## What was trained\n\n" + _table(("part", "tensors", "numbers"), _trained(shapes)),
        "## Recipe\n\n" + _table(("setting", "value"), _recipe(config, manifest, rows)),
        *_data(config),
        "## Metrics\n\n" + _metrics(manifest),
        "## Record\n\n" + _table(("", ""), _record(start)),
    ]
    return "\n\n".join(sections) + "\n"


def hub_ids(config: Mapping[str, Any]) -> list[str]:
    """Hub repositories that the model was built from: values of keys named `weights` that are no folders."""
    paths = config.get("paths", {})
    own = tuple(f"{paths[root]}/" for root in ("data", "outputs") if root in paths)
    found = []
    for key, value in flatten(config.get("model", {})).items():
        if key.rpartition(".")[2] == "weights" and isinstance(value, str) and not value.startswith(own):
            found += [value] if _is_hub_id(value) else []
    return sorted(set(found))


def _is_hub_id(value: str) -> bool:
    if value.count("/") != 1 or Path(value).exists():
        return False
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return True


def portable(text: str) -> str:
    """A text without the folders of this machine: paths become relative to the checkout, or to the home folder."""
    return text.replace(f"{ROOT}/", "").replace(str(ROOT), ".").replace(f"{Path.home()}/", "~/")


def _trained(shapes: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, ...]]:
    """Rows by the first parts of the names of modules, such as model.projector: as many as still make a short table."""
    depths = (4, 3, 2)
    depth = next((each for each in depths if len({_part(name, each) for name in shapes}) <= MAX_PARTS), depths[-1])
    parts: dict[str, list[int]] = {}
    for name, shape in shapes.items():
        parts.setdefault(_part(name, depth), []).append(prod(shape))
    for part, counts in parts.items():
        yield f"`{part}`", f"{len(counts):,}", f"{sum(counts):,}"
    yield "all", f"{len(shapes):,}", f"{sum(sum(counts) for counts in parts.values()):,}"


def _part(name: str, depth: int) -> str:
    module = name.split(".")[:-1]
    return ".".join(module[:depth]) if len(module) > 1 else name


def _recipe(config: Mapping[str, Any], manifest: Manifest, rows: int | None) -> Iterator[tuple[str, ...]]:
    flat = flatten(config)
    yield "optimizer steps", f"{manifest.step:,}"
    yield "samples", f"{manifest.samples:,}"
    if rows is not None:
        yield "training rows", f"{rows:,}"
    for row, key in RECIPE.items():
        if flat.get(key) is not None:
            yield row, portable(str(flat[key]))
    for key, value in flat.items():
        end = key.rpartition(".")[2]
        wanted = end in MODEL_RECIPE or end.endswith("_lr") or key.startswith(MODEL_RECIPES)
        if key.startswith("model.") and wanted and value is not None and end != "_partial_":
            yield f"`{key.removesuffix('._target_')}`", portable(str(value))


def _data(config: Mapping[str, Any]) -> list[str]:
    """The settings of the training rows as they were configured; none for a run that did not train."""
    rows = config.get("data", {}).get("train", {})
    plain = _without_partial({key: value for key, value in rows.items() if key != "request"})
    if not plain:
        return []
    return [f"## Data\n\n```yaml\n{portable(yaml.safe_dump(plain, sort_keys=False)).strip()}\n```"]


def _without_partial(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_partial(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if key != "_partial_"
    }


def _metrics(manifest: Manifest) -> str:
    if not manifest.metrics:
        return "This checkpoint was not validated."
    rows = [(f"`{name}`", f"{value:.4f}") for name, value in sorted(manifest.metrics.items())]
    return _table((f"validation at step {manifest.step:,}", "value"), rows)


def _record(start: Start) -> Iterator[tuple[str, ...]]:
    changed = ", with uncommitted changes" if start.dirty else ""
    yield "revision", f"`{start.revision}`{changed}" if start.revision else "outside a checkout"
    yield "started", start.time
    program = Path(start.command[0])
    if program.parent.name == "launchers":
        command = shlex.join(["python", "-m", f"launchers.{program.stem}", *start.command[1:]])
        yield "command", f"`{portable(command)}`"
    yield "packages", ", ".join(f"{name} {version}" for name, version in start.packages.items())


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
