"""How much frozen features tell of labels: pictures, or clips by the embeddings of some frames."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.progress import track
from common.video.clip import VideoInfo
from common.video.decode import read
from common.video.sample import uniform
from projects.genhancer.benchmarks.classifiers import linear_probe, nearest_neighbours
from projects.genhancer.benchmarks.labelled import Example, Labelled
from projects.genhancer.benchmarks.outcome import Benchmark, BenchmarkError, Measure, Outcome
from projects.genhancer.benchmarks.reader import Reader, directions, in_order

# The mean of the frames does not know their order; one after the other they do.
POOLINGS = ("mean", "concat")


class Probe(Benchmark):
    """Nearest neighbours and a linear probe on embeddings that nothing trains."""

    def __init__(
        self,
        *,
        source: Labelled,
        frames: int = 1,
        poolings: Sequence[str] = ("mean",),
        neighbours: int = 20,
        penalties: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1),
        grouped: bool = False,
        max_failed: float = 0.0,
        backend: str = "pyav",
    ) -> None:
        """
        Args:
            source: of the examples.
            frames: of each clip, at equal distance, ends included; 1 for pictures (and the middle frame of clips).
            poolings: of the frames of a clip: "mean" of their unit vectors, or "concat", one after the other.
            neighbours: of nearest neighbours.
            penalties: of the linear probe; one of several is chosen on a fifth of what it learns from.
            grouped: whether the report has a row for each label.
            max_failed: share of files that may be unreadable or too short; they are left out and listed.
            backend: video reader.
        """
        unknown = sorted(set(poolings) - set(POOLINGS))
        if unknown or not poolings or frames < 1 or neighbours < 1 or not penalties or min(penalties) <= 0:
            raise ValueError(
                f"poolings={list(poolings)} must be some of {', '.join(POOLINGS)}; frames={frames} and "
                f"neighbours={neighbours} 1 or more; penalties={list(penalties)} above 0"
            )
        self.source, self.frames, self.poolings = source, frames, list(poolings)
        self.neighbours, self.penalties, self.grouped = neighbours, list(penalties), grouped
        self.max_failed, self.backend = max_failed, backend

    def identity(self) -> dict[str, Any]:
        """Settings and the examples."""
        settings = {"frames": self.frames, "poolings": self.poolings, "neighbours": self.neighbours}
        return {"benchmark": "probe", "penalties": self.penalties, **settings, "of": self.source.identity()}

    def run(self, reader: Reader) -> Outcome:
        """Asks a model; measures "neighbours/<pooling>" and "linear/<pooling>"."""
        learned, seen, failed = self._part(reader, "train")
        judged, asked, more = self._part(reader, "test")
        names = sorted({example.label for example in learned})
        labels = torch.tensor([names.index(example.label) for example in learned])
        truth = [names.index(example.label) for example in judged if example.label in names]
        if len(truth) != len(judged):
            raise BenchmarkError(f"{type(self.source).__name__}: no readable example of some labels to learn from")
        answers: list[dict[str, str | int | float]] = [{"id": e.id, "label": e.label} for e in judged]
        measures = {}
        for pooling in self.poolings:
            known, new = pooled(seen, pooling), pooled(asked, pooling)
            near = nearest_neighbours(known, labels, new, classes=len(names), neighbours=self.neighbours)
            line, penalty = linear_probe(known, labels, new, classes=len(names), penalties=self.penalties)
            for name, found in ((f"neighbours/{pooling}", near.tolist()), (f"linear/{pooling}", line.tolist())):
                hits = [a == b for a, b in zip(found, truth, strict=True)]
                groups = [example.label for example in judged] if self.grouped else []
                measures[name] = Measure([example.id for example in judged], hits, groups)
                for answer, label in zip(answers, found, strict=True):
                    answer[name] = names[label]
            for answer in answers:
                answer[f"penalty/{pooling}"] = penalty
        return Outcome(measures, answers, chance=dict.fromkeys(measures, 1 / len(names)), left_out=failed | more)

    def _part(self, reader: Reader, part: str) -> tuple[list[Example], Tensor, dict[str, str]]:
        """Examples that can be read, their embeddings (N, frames, D), and why the others cannot."""
        examples = self.source.parts[part]
        kept, found, failed = [], [], {}

        def pixels(example: Example) -> Tensor | str:
            return self._pixels(reader, example)

        clips = in_order(pixels, examples, reader.workers)
        name = f"{type(self.source).__name__} {part}"
        held: list[Tensor] = []
        for example, clip in zip(examples, track(clips, description=name, total=len(examples)), strict=True):
            if isinstance(clip, str):
                failed[str(example.file)] = clip
                continue
            kept.append(example)
            held.append(clip)
            if len(held) * self.frames >= reader.batch:
                found.append(reader.embed(torch.cat(held)))
                held = []
        if held:
            found.append(reader.embed(torch.cat(held)))
        if len(failed) > self.max_failed * len(examples) or not kept:
            file, reason = next(iter(failed.items()))
            raise BenchmarkError(
                f"{len(failed)} of {len(examples)} files of {name} cannot be used, max_failed={self.max_failed}; the "
                f"first is {file}: {reason}"
            )
        return kept, torch.cat(found).unflatten(0, (len(kept), self.frames)), failed

    def _pixels(self, reader: Reader, example: Example) -> Tensor | str:
        """Frames as the tower reads them, uint8 (frames, 3, S, S); or why there are none."""

        def choose(info: VideoInfo) -> Any:
            return uniform(info.num_frames, self.frames)

        try:
            clip = read(example.file, choose, backend=self.backend)
        except ValueError as error:  # unreadable (VideoReadError), or too short
            return str(error)
        return torch.stack([reader.pixels(frame) for frame in clip.frames])


def pooled(embeddings: Tensor, pooling: str) -> Tensor:
    """Features of clips from embeddings (N, frames, D): (N, D), or (N, frames D) one after the other."""
    unit = directions(embeddings)
    return unit.mean(dim=1) if pooling == "mean" else unit.flatten(1)
