"""Trained weights in the layouts of the world outside: what a method offers, and folders that are whole or absent.

Every method has the layout `trained`. A LightningModule class may offer more by a static method
`layouts() -> Mapping[str, Layout]`; nothing is built for it, so a layout that streams its tensors needs no memory for
the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.card import Card, model_card, portable
from common.checkpoint import CheckpointError, Manifest, read_manifest
from common.checkpoint import load_file as load_checkpoint
from common.config import ConfigError, suggest
from common.data.module import StreamData
from common.ema import weights_of
from common.files import digest
from common.made import make_folder
from common.run import RECORD, Start, read_starts
from common.weights.shards import MAX_SHARD_BYTES
from common.weights.verified import refuse_difference

TRAINED = "trained"
DTYPES = ("bfloat16", "float16", "float32")
TRAINED_FILE = "trained.safetensors"
TRAINED_CARD = Card(
    form="`trained.safetensors` holds what training changed, by the names of the module that `config.yaml` describes. "
    "The weights that stayed as they were are not in it.",
    usage="""\
From a checkout of Framelab, with the base weights where `config.yaml` says:

```python
import yaml
from safetensors.torch import load_file
from common.checkpoint import load_trained
from common.config import build

module = build(yaml.safe_load(open("config.yaml"))["model"])
module.configure_model()
load_trained(module, load_file("trained.safetensors"), source="trained.safetensors")
```""",
)


@dataclass(frozen=True)
class TrainedRun:
    """What is exported: a checkpoint and the record of its run."""

    checkpoint: Path
    manifest: Manifest
    start: Start  # the newest
    text: str  # the composed configuration as it was written, YAML
    config: dict[str, Any]
    state: Mapping[str, Tensor]  # what training changed, by parameter name; mapped from the file
    weights: str = "raw"  # "averaged" where `state` is the average of the run
    rows: int | None = None  # of the training data; None where the checkpoint does not say


@dataclass(frozen=True)
class Request:
    """What the user may choose about an export."""

    base: str | None = None  # base weights where they are not the run's any more: a folder, or a fetched Hub id
    max_shard_bytes: int = MAX_SHARD_BYTES
    dtype: str | None = None  # of the weights, by its name in torch; None keeps that of the base
    license: str | None = None  # of the result, by its name on the Hub; the card says nothing where it is not known


@dataclass(frozen=True)
class Layout:
    """One form of a trained model.

    Args:
        write: fills a folder from the run, reads back what it wrote, and returns a few figures.
        card: what the model card says of this form.
        reads: identity of what `write` reads beside the checkpoint, as JSON.
        dtypes: whether the user may choose the dtype.
    """

    write: Callable[[TrainedRun, Path, Request], Mapping[str, Any]]
    card: Card
    reads: Callable[[TrainedRun, Request], Mapping[str, Any]] = lambda run, request: {}
    dtypes: bool = False


def read_run(checkpoint: Path, *, weights: str = "auto") -> TrainedRun:
    """The record of the run that a checkpoint file lies in.

    Args:
        checkpoint: the file.
        weights: "averaged", "raw", or "auto" for the average where the run kept one.

    Raises:
        CheckpointError: the file is not in a run folder.
    """
    folder = checkpoint.resolve().parents[1]
    needed = [folder / RECORD, folder / "config.yaml", checkpoint.with_suffix(".json")]
    missing = [path.name for path in needed if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{checkpoint} has no {', '.join(missing)}; an export needs the record of the run: give the checkpoint "
            "in its run folder"
        )
    text = (folder / "config.yaml").read_text()
    content = load_checkpoint(checkpoint)
    which, state = weights_of(content, weights, source=str(checkpoint))
    return TrainedRun(
        checkpoint=checkpoint,
        manifest=read_manifest(checkpoint),
        start=read_starts(folder)[-1],
        text=text,
        config=yaml.safe_load(text),
        state=state,
        weights=which,
        rows=content.get(StreamData.__qualname__, {}).get("rows"),
    )


def layouts_of(method: Any) -> dict[str, Layout]:
    """Every layout that a LightningModule class offers, by name."""
    own: Mapping[str, Layout] = method.layouts() if hasattr(method, "layouts") else {}
    return {TRAINED: Layout(write=write_trained, card=TRAINED_CARD), **own}


def choose(name: str, layouts: Mapping[str, Layout]) -> Layout:
    """The layout of a name.

    Raises:
        ConfigError: there is none; names the near ones.
    """
    if name not in layouts:
        raise ConfigError(f"export.layout={name}: {suggest(name, layouts)}")
    return layouts[name]


def export(run: TrainedRun, target: Path, *, name: str, layout: Layout, request: Request) -> dict[str, Any]:
    """Makes the folder of an export with its model card; does nothing when it is there and was made from the same.

    Args:
        run: as read.
        target: folder to make.
        name: of the layout.
        layout: as chosen.
        request: as the user gave it.

    Returns:
        Figures of the layout.

    Raises:
        ValueError: `target` holds something else, or the layout has no place for what was trained.
        OSError: what was written does not read back equal.
    """
    _check_dtype(request.dtype, name, layout)
    source = {
        "checkpoint": digest(run.checkpoint),
        "layout": name,
        "license": request.license,
        "max_shard_bytes": request.max_shard_bytes,
        "weights": run.weights,
        **({} if request.dtype is None else {"dtype": request.dtype}),
        **layout.reads(run, request),
    }

    def make(temporary: Path) -> Mapping[str, Any]:
        figures = layout.write(run, temporary, request)
        (temporary / "config.yaml").write_text(portable(run.text))
        card = model_card(
            layout.card,
            config=run.config,
            manifest=run.manifest,
            start=run.start,
            shapes={tensor: tuple(value.shape) for tensor, value in run.state.items()},
            rows=run.rows,
            license_name=request.license,
        )
        (temporary / "README.md").write_text(card)
        return figures

    return make_folder(target, source=source, make=make)


def _check_dtype(dtype: str | None, name: str, layout: Layout) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"export.dtype={dtype}: {', '.join(DTYPES)}, or null for that of the base")
    if dtype is not None and not layout.dtypes:
        raise ConfigError(f"export.dtype={dtype}: the layout {name} has its own dtype; leave export.dtype out")


def write_trained(run: TrainedRun, folder: Path, request: Request) -> dict[str, Any]:
    """`trained.safetensors`: the tensors that training changed, by the names that they have in the module."""
    tensors = {name: value.contiguous() for name, value in run.state.items()}
    path = folder / TRAINED_FILE
    save_file(tensors, path)
    again = load_file(path)
    refuse_difference(path, found=again, wanted=tensors, read_back=again.__getitem__, read=tensors.__getitem__)
    return {"tensors": len(tensors), "bytes": sum(value.nbytes for value in tensors.values())}
