"""Zero-shot classification (arXiv:2103.00020, section 3.1): a folder of pictures for each class, told by its name."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from common.video.images import SUFFIXES
from projects.genhancer.benchmarks.outcome import Benchmark, BenchmarkError, Measure, Outcome
from projects.genhancer.benchmarks.reader import Reader, directions

TOP = 5


class ZeroShot(Benchmark):
    """Which class's texts, averaged over templates, lie nearest to a picture."""

    def __init__(
        self,
        *,
        folder: str,
        templates: Sequence[str] = ("a photo of a {}.",),
        names: Mapping[str, str] | None = None,
        grouped: bool = False,
    ) -> None:
        """
        Args:
            folder: of a folder for each class, with its pictures at any depth.
            templates: of texts; `{}` is the name of the class.
            names: of classes by folder, such as {n01440764: tench}; others are called as their folder, with spaces for
                underscores.
            grouped: whether the report has a row for each class.
        """
        self.folder, self.templates, self.names, self.grouped = (
            Path(folder),
            list(templates),
            dict(names or {}),
            grouped,
        )
        if not self.templates or not all("{}" in template for template in self.templates):
            raise ValueError(f"templates={self.templates}: give at least one, each with {{}} for the name of the class")

    @cached_property
    def pictures(self) -> list[tuple[Path, str]]:
        """Files and folders of classes, in the order of their names.

        Raises:
            BenchmarkError: fewer than two classes, one without pictures, or names for folders that are not there.
        """
        classes = sorted(path for path in self.folder.glob("*") if path.is_dir()) if self.folder.is_dir() else []
        if len(classes) < 2:
            raise BenchmarkError(f"{self.folder} holds {len(classes)} folders of classes; it needs one for each class")
        if unknown := sorted(self.names.keys() - {path.name for path in classes}):
            raise BenchmarkError(f"{self.folder} has no folder {unknown[0]}, for which names gives a name")
        found = []
        for path in classes:
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            if not files:
                raise BenchmarkError(f"{path} holds no pictures; add some, or remove the class")
            found += [(file, path.name) for file in files]
        return found

    def identity(self) -> dict[str, Any]:
        """Settings, and a digest of names and sizes of the pictures."""
        state = hashlib.blake2b(digest_size=16)
        for file, _ in self.pictures:
            state.update(f"{file.relative_to(self.folder).as_posix()} {file.stat().st_size}\n".encode())
        settings = {"templates": self.templates, "names": self.names, "grouped": self.grouped}
        return {"benchmark": "zero_shot", "pictures": state.hexdigest(), **settings}

    def run(self, reader: Reader) -> Outcome:
        """Asks a model; measures "top1", and "top5" where there are more classes."""
        classes = list(dict.fromkeys(name for _, name in self.pictures))
        called = [self.names.get(name, name.replace("_", " ")) for name in classes]
        texts = class_directions(reader, called, self.templates)
        files = [file for file, _ in self.pictures]
        scores = directions(reader.pictures(files, description=f"zero-shot {self.folder.name}")) @ texts.T
        wanted = [classes.index(name) for _, name in self.pictures]
        ranked = scores.argsort(dim=1, descending=True, stable=True)[:, :TOP].tolist()
        ids = [file.relative_to(self.folder).as_posix() for file in files]
        groups = [name for _, name in self.pictures] if self.grouped else []
        first = [row[0] == label for row, label in zip(ranked, wanted, strict=True)]
        measures = {"top1": Measure(ids, first, groups)}
        if len(classes) > TOP:
            among = [label in row for row, label in zip(ranked, wanted, strict=True)]
            measures["top5"] = Measure(ids, among, groups)
        answers = [
            {"picture": name, "class": classes[label], "predicted": classes[row[0]], "right": int(hit)}
            for name, label, row, hit in zip(ids, wanted, ranked, first, strict=True)
        ]
        chance = {name: k / len(classes) for name, k in (("top1", 1), ("top5", TOP)) if name in measures}
        return Outcome(measures, answers, chance=chance)


def class_directions(reader: Reader, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Unit vectors of classes (classes, D): the mean over the templates of unit vectors of texts."""
    texts = reader.texts([template.replace("{}", name) for name in names for template in templates])
    return directions(directions(texts).view(len(names), len(templates), -1).mean(dim=1))
