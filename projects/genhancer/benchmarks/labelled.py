"""Pictures and clips with one label each, in a part to learn from and a part to be judged on."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from common.files import digest, read_jsonl
from common.video.benchmark import SUFFIXES as VIDEOS
from common.video.images import SUFFIXES as IMAGES
from projects.genhancer.benchmarks.outcome import BenchmarkError

PARTS = ("train", "test")


class Example(NamedTuple):
    """One picture or clip."""

    id: str
    label: str
    file: Path


class Labelled(ABC):
    """Where examples come from."""

    @cached_property
    @abstractmethod
    def parts(self) -> dict[str, list[Example]]:
        """Examples of "train" and "test".

        Raises:
            BenchmarkError: something is missing or laid out in another way.
        """

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the examples depend on beside their files, as JSON."""

    def identity(self) -> dict[str, Any]:
        """Settings and a digest of names, labels and sizes; looks at every file.

        Raises:
            BenchmarkError: a file is missing, or a label of "test" is not in "train".
        """
        state = hashlib.blake2b(digest_size=16)
        for part in PARTS:
            for example in self.parts[part]:
                if not example.file.is_file():
                    raise BenchmarkError(f"{example.file} is not there")
                state.update(f"{part} {example.id} {example.label} {example.file.stat().st_size}\n".encode())
        learned = {example.label for example in self.parts["train"]}
        unknown = sorted({example.label for example in self.parts["test"]} - learned)
        if unknown or len(learned) < 2:
            told = f"no example of {unknown[0]!r} to learn from" if unknown else f"{len(learned)} labels to learn"
            raise BenchmarkError(f"{type(self).__name__}: {told}")
        return {"source": type(self).__name__, "examples": state.hexdigest(), **self.settings}


class ClassFolders(Labelled):
    """<folder>/train/<class>/ and <folder>/test/<class>/ with pictures, or with video files."""

    def __init__(self, *, folder: str) -> None:
        """
        Args:
            folder: of both parts.
        """
        self.folder = Path(folder)

    @property
    def settings(self) -> dict[str, Any]:
        """None."""
        return {}

    @cached_property
    def parts(self) -> dict[str, list[Example]]:
        """Examples by part, in the order of their names."""
        found = {part: self._part(self.folder / part) for part in PARTS}
        for part, examples in found.items():
            if not examples:
                raise BenchmarkError(f"{self.folder / part} holds no pictures or videos in folders of classes")
        return found

    def _part(self, folder: Path) -> list[Example]:
        files = sorted(path for path in folder.glob("*/**/*") if path.suffix.lower() in VIDEOS | IMAGES)
        return [Example(path.relative_to(folder).as_posix(), path.relative_to(folder).parts[0], path) for path in files]


class ShapesDirections(Labelled):
    """The built-in clips of one object, by the direction of its motion."""

    def __init__(self, *, root: str, learn_from: Sequence[str] = ("train",), judge_on: str = "test") -> None:
        """
        Args:
            root: of the built-in data set, written with the part "captions" or "chat".
            learn_from: splits that are the part "train".
            judge_on: split that is the part "test".
        """
        self.root, self.splits = Path(root), {"train": list(learn_from), "test": [judge_on]}

    @property
    def settings(self) -> dict[str, Any]:
        """The splits."""
        return {"splits": self.splits}

    @cached_property
    def parts(self) -> dict[str, list[Example]]:
        """Clips by part."""
        table = self.root / "clips.jsonl"
        if not table.is_file():
            raise BenchmarkError(f"{table} is not there; write the clips with: python -m launchers.prepare task=shapes")
        found: dict[str, list[Example]] = {part: [] for part in PARTS}
        for row in read_jsonl(table):
            for part in PARTS:
                if row["split"] in self.splits[part] and len(row["things"]) == 1:
                    found[part].append(Example(row["id"], row["things"][0]["direction"], self.root / row["video"]))
        for part in PARTS:
            if not found[part]:
                raise BenchmarkError(f"{table}: no clip of one object in {' and '.join(self.splits[part])}")
        return found


class SomethingSomething(Labelled):
    """Something-Something V2 (arXiv:1706.04261) by template, of each as many clips as asked, drawn by the seed."""

    def __init__(
        self,
        *,
        videos: str,
        labels: str,
        train: str,
        test: str,
        train_each: int | None,
        test_each: int | None,
        seed: int,
    ) -> None:
        """
        Args:
            videos: folder of <id>.webm.
            labels: the official file of labels, {template without brackets: number}.
            train: the official file of training clips, a list of {id, template}.
            test: that of validation, likewise; the official test file has no templates.
            train_each: clips a label to learn from; null for all.
            test_each: clips a label to be judged on; null for all.
            seed: of the draw.
        """
        self.videos, self.labels = Path(videos), Path(labels)
        self.files = {"train": Path(train), "test": Path(test)}
        self.each = {"train": train_each, "test": test_each}
        self.seed = seed
        if any(most is not None and most < 1 for most in self.each.values()):
            raise ValueError(f"train_each={train_each} and test_each={test_each} must be 1 or more, or null")

    @property
    def settings(self) -> dict[str, Any]:
        """The files of labels and the draw."""
        files = {part: digest(path) for part, path in self.files.items()}
        return {"labels": files, "each": self.each, "seed": self.seed}

    @cached_property
    def parts(self) -> dict[str, list[Example]]:
        """Clips by part, in the order of the files."""
        known = _json(self.labels)
        if not isinstance(known, dict):
            raise BenchmarkError(f"{self.labels} is not {{template: number}}; give the official file of labels")
        return {part: self._part(path, known, self.each[part]) for part, path in self.files.items()}

    def _part(self, path: Path, known: Mapping[str, str], most: int | None) -> list[Example]:
        rows = _json(path)
        if not isinstance(rows, list) or not rows:
            raise BenchmarkError(f"{path} is not a list of {{id, template}}")
        found = []
        for number, row in enumerate(rows):
            template = str(row.get("template", "")).replace("[", "").replace("]", "")
            if template not in known or "id" not in row:
                raise BenchmarkError(
                    f"{path} row {number}: template {template!r} is not in {self.labels}; the official test file has "
                    "none, give that of validation"
                )
            found.append(Example(str(row["id"]), template, self.videos / f"{row['id']}.webm"))
        return self._drawn(found, most)

    def _drawn(self, examples: Iterable[Example], most: int | None) -> list[Example]:
        """The first of each label by a hash of seed and name: others beside them do not change which."""
        by_label: dict[str, list[Example]] = defaultdict(list)
        for example in examples:
            by_label[example.label].append(example)
        return [example for label in sorted(by_label) for example in sorted(by_label[label], key=self._key)[:most]]

    def _key(self, example: Example) -> bytes:
        return hashlib.blake2b(f"{self.seed}/{example.id}".encode(), digest_size=8).digest()


def _json(path: Path) -> Any:
    if not path.is_file():
        raise BenchmarkError(f"{path} is not there; it comes with Something-Something V2")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"{path} is not JSON ({error}); fetch it again") from error
