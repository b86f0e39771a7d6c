"""Retrieval of texts by pictures and of pictures by texts (arXiv:2103.00020, section 3.1.4): recall at 1, 5 and 10."""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.files import digest, read_jsonl
from projects.genhancer.benchmarks.outcome import Benchmark, BenchmarkError, Measure, Outcome, Row
from projects.genhancer.benchmarks.reader import Reader, directions

AT = (1, 5, 10)


class Retrieval(Benchmark):
    """Every picture looks for one of its captions among all, every caption for its picture.

    The table is either JSON lines of {image, captions} (or {image, caption}; rows of one image are put together), or
    Karpathy's JSON of Flickr30k and COCO: {images: [{filename, filepath, split, sentences: [{raw}]}]}.
    """

    def __init__(self, *, table: str, media: str, split: str | None = None, prompt: str = "a photo of {}") -> None:
        """
        Args:
            table: the list of pictures and captions.
            media: folder that its paths are relative to.
            split: whose rows to take where the table names splits; null for all rows.
            prompt: around each caption.
        """
        self.table, self.media, self.split, self.prompt = Path(table), Path(media), split, prompt

    @cached_property
    def captions(self) -> dict[str, list[str]]:
        """Captions by picture.

        Raises:
            BenchmarkError: no table, no rows, or a row that is not what it should be.
        """
        if not self.table.is_file():
            raise BenchmarkError(f"{self.table} is not there; give a table of pictures and captions")
        found: dict[str, list[str]] = {}
        for image, captions in _karpathy(self.table, self.split) if self.table.suffix == ".json" else self._lines():
            found.setdefault(image, []).extend(captions)
        if len(found) < 2:
            told = "" if self.split is None else f" of split {self.split}"
            raise BenchmarkError(f"{self.table} names {len(found)} pictures{told}; it needs at least two")
        return found

    def _lines(self) -> Iterator[tuple[str, list[str]]]:
        for number, row in enumerate(read_jsonl(self.table), start=1):
            if self.split is not None and row.get("split") != self.split:
                continue
            captions = row.get("captions", [row["caption"]] if "caption" in row else [])
            if not isinstance(row.get("image"), str) or not captions or not all(isinstance(c, str) for c in captions):
                raise BenchmarkError(f"{self.table} line {number} is not {{image, captions}}: {row}")
            yield row["image"], captions

    def identity(self) -> dict[str, Any]:
        """Settings, the table's digest, and that every picture is there."""
        missing = [image for image in self.captions if not (self.media / image).is_file()]
        if missing:
            raise BenchmarkError(f"{self.media / missing[0]} is not there, of {len(missing)} missing pictures")
        settings = {"split": self.split, "prompt": self.prompt}
        return {"benchmark": "retrieval", "table": digest(self.table), **settings}

    def run(self, reader: Reader) -> Outcome:
        """Asks a model; measures "text@1", ... (texts found by pictures) and "image@1", ... (pictures by texts)."""
        images = list(self.captions)
        owner = torch.tensor([n for n, image in enumerate(images) for _ in self.captions[image]])
        texts = [caption for image in images for caption in self.captions[image]]
        seen = reader.pictures([self.media / image for image in images], description=f"retrieval {self.table.stem}")
        told = reader.texts([self.prompt.replace("{}", text) for text in texts])
        ranks = ranks_of(directions(seen), directions(told), owner)
        names = {"text": images, "image": [f"{images[int(n)]}#{i}" for i, n in enumerate(owner)]}
        measures = {
            f"{kind}@{k}": Measure(names[kind], [rank < k for rank in ranks[kind]]) for kind in ranks for k in AT
        }
        answers: list[Row] = [
            {"asked": kind, "id": name, "rank": rank + 1}
            for kind in ranks
            for name, rank in zip(names[kind], ranks[kind], strict=True)
        ]
        return Outcome(measures, answers)


def ranks_of(pictures: Tensor, texts: Tensor, owner: Tensor) -> dict[str, list[int]]:
    """How many wrong candidates are at least as near as the (best) right one.

    A tie counts against the model, so that one which sees nothing finds nothing.

    Args:
        pictures: unit vectors (N, D).
        texts: unit vectors (M, D).
        owner: int64 (M,), number of the picture of each text.

    Returns:
        "text": N ranks from 0 of the best own text of each picture among the texts of others. "image": M ranks of the
        picture of each text.
    """
    found: dict[str, list[int]] = {"text": [], "image": []}
    for number, picture in enumerate(pictures):
        scores, own = texts @ picture, owner == number
        found["text"].append(int((scores[~own] >= scores[own].max()).sum()))
    for text, right in zip(texts, owner.tolist(), strict=True):
        scores = pictures @ text
        found["image"].append(int((scores >= scores[right]).sum()) - 1)
    return found


def _karpathy(path: Path, split: str | None) -> Iterator[tuple[str, list[str]]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["images"]
        for row in rows:
            if split is None or row["split"] == split:
                name = "/".join(part for part in (row.get("filepath"), row["filename"]) if part)
                yield name, [sentence["raw"] for sentence in row["sentences"]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"{path} is not {{images: [{{filename, split, sentences: [{{raw}}]}}]}}: {error!r}"
        ) from error
