"""The published feature files, one pickle a video, into our cache, without running what a pickle could run.

`scripts/save_spatio_temporal_clip_features.py` of the original writes a bare float16 array (356, 1024): 100 rows of
frames, then 256 of patches, under the video's name up to its first dot.
"""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.data.array_pickle import PickleError, read_pickled_array
from common.data.cache import Cache, CacheWriter, Failure, Item, Settings, fill, key_of
from common.progress import track

log = logging.getLogger(__name__)


def import_features(
    *,
    folder: str,
    cache: str,
    temporal: int,
    spatial: int,
    width: int,
    image_size: int,
    encoder: str,
    layer: int,
    shard_size: int,
    max_failed: float,
) -> dict[str, int]:
    """Fills a cache from a folder of pickles. A killed import goes on where it stood.

    The names in the cache are those of the videos without an ending, so the annotations must name their videos so, or
    as `<name>.pkl`: the published training file does.

    Args:
        folder: of `<video>.pkl`.
        cache: folder to fill.
        temporal: rows of frames T.
        spatial: rows of patches P.
        width: of a row, D.
        image_size: side that the frames had for the encoder.
        encoder: name of the encoder that made the features.
        layer: of the encoder.
        shard_size: videos a shard.
        max_failed: greatest share of files that may be bad.

    Returns:
        Counts of videos, of bad files and of shards made. Each bad file is logged and stands in `failures.json`.

    Raises:
        ValueError: no files, two for one video, or too many bad ones: then there is no cache, and the message names
            the first.
    """
    paths = _by_name(Path(folder))
    settings: Settings = {
        "encoder": encoder,
        "layer": layer,
        "temporal": temporal,
        "image_size": image_size,
        "resize": "nearest",
        "sampling": "midpoint",
        "dtype": "float16",
        "backend": "decord, by the published script",
    }
    items = [Item(name, key_of(path, name=name, settings=settings)) for name, path in paths.items()]
    writer = CacheWriter(Path(cache), items=items, settings=settings, shard_size=shard_size)
    missing = writer.missing()
    make = _reader(paths, shape=(temporal + spatial, width))
    fill(writer, make=make, shards=track(missing, description="shards of features"))
    try:
        failures = writer.finish(max_failed=max_failed)
    except ValueError as error:
        first = "; ".join(_reasons(writer.folder)[:3])
        raise ValueError(
            f"{error}. First: {first}. Fetch good files and remove {cache}, or raise task.max_failed"
        ) from error
    return {"videos": len(Cache(writer.folder)), "failed": len(failures), "shards made": len(missing)}


def _by_name(folder: Path) -> dict[str, Path]:
    files = sorted(folder.glob("*.pkl"))
    if not files:
        raise ValueError(f"{folder}: no .pkl files; set task.folder to the folder of feature files")
    paths: dict[str, Path] = {}
    for path in files:
        name = path.name.partition(".")[0]
        if name in paths:
            raise ValueError(f"{path} and {paths[name].name} are both of video {name}; remove one")
        paths[name] = path
    return paths


def _reader(
    paths: dict[str, Path], *, shape: tuple[int, int]
) -> Callable[[Sequence[Item]], tuple[dict[str, Tensor], list[Failure]]]:
    def make(items: Iterable[Item]) -> tuple[dict[str, Tensor], list[Failure]]:
        tensors, failures = {}, []
        for item in items:
            try:
                tensors[item.key] = torch.from_numpy(read_pickled_array(paths[item.name], shape=shape).copy())
            except PickleError as error:
                log.warning("%s", error)
                failures.append(Failure(item.name, f"{paths[item.name].name}: {error.reason}"))
        return tensors, failures

    return make


def _reasons(folder: Path) -> list[str]:
    return [each["reason"] for each in json.loads((folder / "failures.json").read_text())]
