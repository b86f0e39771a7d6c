"""The preparation task that asks models the same and puts what they answered side by side."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from common.encoders.tower import ContrastiveTower, load_tower
from common.files import digest
from common.made import make_folder
from common.weights.source import Weights, weights_folder
from projects.genhancer.benchmarks.comparison import TABLE, Outcomes, write
from projects.genhancer.benchmarks.outcome import Benchmark
from projects.genhancer.benchmarks.reader import PREPROCESSORS, Preprocess, Reader

log = logging.getLogger(__name__)
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model")
FORMAT = 1  # of what is written


def tower_benchmarks(
    *,
    models: Mapping[str, str],
    processor: str | None,
    benchmarks: Mapping[str, Benchmark],
    only: Sequence[str] | None,
    batch: int,
    workers: int,
    device: str,
    folder: str,
) -> dict[str, Any]:
    """Asks every model the same and writes `report.json`, `table.csv` and `predictions/<benchmark>.<model>.csv`.

    Models are read in float32. Rows are shares of cases with Wilson's interval; beside each later model stands its
    difference from the first: Newcombe's interval for paired proportions, and the p-value of McNemar's exact test.

    Args:
        models: folder or fetched Hub id of a CLIP or SigLIP, by the name of its column; the first is what the others
            are compared with.
        processor: folder or fetched Hub id whose tokenizer and preprocessor serve the models that have none, as the
            weights that GenHancer released; null where all have their own.
        benchmarks: by the name of their rows.
        only: names of the benchmarks to run; null for all.
        batch: pictures at once.
        workers: threads that open and resize pictures.
        device: "auto", "cpu" or a CUDA device.
        folder: where the result goes; there is one for each choice of models and benchmarks.

    Returns:
        Share of right cases by model, benchmark and measure.

    Raises:
        BenchmarkError: the files of a benchmark are not as they should be; known before any model is read.
        ValueError: no model, a name in `only` that is no benchmark, or `folder` holds another result.
    """
    chosen = _chosen(benchmarks, only)
    if not models:
        raise ValueError("task.models names no model; give them as {before: FOLDER, after: FOLDER}")
    if strange := [name for name in models if not name.replace("_", "").isalnum()]:
        raise ValueError(f"task.models.{strange[0]}: names of files are made of it; use letters, digits and _")
    asked = {name: benchmark.identity() for name, benchmark in chosen.items()}
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    identities = {name: _identity(_parts(weights, processor)) for name, weights in models.items()}

    def make(target: Path) -> dict[str, Any]:
        with full_float32():
            parts = {name: _parts(weights, processor) for name, weights in models.items()}
            outcomes = _ask(parts, chosen, batch=batch, workers=workers, device=where)
        write(target, outcomes)
        return {
            f"{model}/{name}/{measure}": sum(found.right) / len(found.right)
            for name, by_model in outcomes.items()
            for model, outcome in by_model.items()
            for measure, found in outcome.measures.items()
        }

    source = {"format": FORMAT, "models": identities, "benchmarks": asked}
    figures = make_folder(Path(folder), source=source, make=make)
    log.info("%s", Path(folder) / TABLE)
    return figures


def reader_of(tower: ContrastiveTower, weights: str, *, batch: int, workers: int, device: str) -> Reader:
    """A model with the preprocessing of its folder.

    Args:
        tower: the model.
        weights: folder or fetched Hub id that its preprocessor file is in, or "random" for that of its family.
        batch: pictures at once.
        workers: threads that open and resize pictures.
        device: to read on; the tower is moved there.
    """
    folder = None if weights == "random" else weights_folder(weights)
    preprocess = Preprocess(folder=folder, family=tower.family, image_size=tower.image_size)
    return Reader(tower.to(device), preprocess=preprocess, batch=batch, workers=workers, device=device)


@contextmanager
def full_float32() -> Iterator[None]:
    """No TF32 on a GPU: pairs are decided by small differences. The settings of the process come back afterwards."""
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


class _Parts(NamedTuple):
    """Folders of a model's weights, tokenizer and preprocessor."""

    weights: Path
    tokenizer: Path
    preprocess: Path


def _parts(weights: str, processor: str | None) -> _Parts:
    """The model's own folder, but for what it lacks.

    Raises:
        ValueError: no tokenizer or preprocessor anywhere.
    """
    own = weights_folder(weights)
    other = own if processor is None else weights_folder(processor)
    found = []
    for what, names in (("tokenizer", TOKENIZER_FILES), ("preprocessor", PREPROCESSORS)):
        having = [folder for folder in (own, other) if any((folder / name).is_file() for name in names)]
        if not having:
            raise ValueError(
                f"{own} has no {what} (none of {', '.join(names)}); set task.processor to the model it was made from"
            )
        found.append(having[0])
    return _Parts(own, *found)


def _identity(parts: _Parts) -> dict[str, str]:
    """Digests of the weights, and of the files that decide what the model reads."""
    beside = [parts.tokenizer / name for name in TOKENIZER_FILES] + [parts.preprocess / name for name in PREPROCESSORS]
    return Weights(parts.weights).identity() | {path.name: digest(path) for path in beside if path.is_file()}


def _chosen(benchmarks: Mapping[str, Benchmark], only: Sequence[str] | None) -> dict[str, Benchmark]:
    names = list(benchmarks) if only is None else list(only)
    if unknown := [name for name in names if name not in benchmarks]:
        raise ValueError(f"task.only names {unknown[0]}; there is {', '.join(benchmarks)}")
    if not names:
        raise ValueError(f"task.only names no benchmark; there is {', '.join(benchmarks)}")
    return {name: benchmarks[name] for name in names}


def _ask(
    models: Mapping[str, _Parts], benchmarks: Mapping[str, Benchmark], *, batch: int, workers: int, device: str
) -> Outcomes:
    """One model after the other, so that only one is in memory."""
    outcomes: Outcomes = {name: {} for name in benchmarks}
    for model, parts in models.items():
        log.info("%s: %s", model, parts.weights)
        tower = load_tower(weights=str(parts.weights), tokenizer=str(parts.tokenizer))
        reader = reader_of(tower, str(parts.preprocess), batch=batch, workers=workers, device=device)
        for name, benchmark in benchmarks.items():
            outcomes[name][model] = benchmark.run(reader)
    return outcomes
