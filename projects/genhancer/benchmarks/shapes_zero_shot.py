"""The zero-shot guard of the built-in world: does a model that learns details still know what it knew?"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.random import mix
from common.shapes_world.language import COLUMNS, ROWS
from common.shapes_world.scene import COLOURS, SHAPES, SPLITS
from common.tiny.pictures import Batch, draw_single
from projects.genhancer.benchmarks.outcome import Benchmark, Measure, Outcome
from projects.genhancer.benchmarks.reader import Reader, directions

CELLS = [f"{row} {column}" for row in ROWS for column in COLUMNS]


class ShapesZeroShot(Benchmark):
    """Colour, shape and place of one object among captions that differ in nothing else.

    The pictures are drawn, from (seed, split, count) alone; no file is read. `tiny_clip` is judged likewise, on other
    pictures.
    """

    def __init__(self, *, split: str, count: int = 2500, size: int = 64, seed: int = 0) -> None:
        """
        Args:
            split: "val" or "test": other pictures for the choice of a model and for its report.
            count: pictures.
            size: their side, pixels.
            seed: of what is drawn.
        """
        if split not in SPLITS or count < 1:
            raise ValueError(f"split={split} must be one of {', '.join(SPLITS)} and count={count} at least 1")
        self.split, self.count, self.size, self.seed = split, count, size, seed

    def identity(self) -> dict[str, Any]:
        """The settings."""
        settings = {"split": self.split, "count": self.count, "size": self.size, "seed": self.seed}
        return {"benchmark": "shapes_zero_shot", **settings}

    def draw(self) -> tuple[NDArray[np.uint8], Batch]:
        """Pictures uint8 (count, size, size, 3) and what they show."""
        rng = np.random.default_rng(mix("shapes_zero_shot", self.split, self.seed))
        return draw_single(rng, count=self.count, size=self.size)

    def run(self, reader: Reader) -> Outcome:
        """Asks a model; measures "colour", "shape" and "place"."""
        pictures, drawn = self.draw()
        colours, counts = list(COLOURS), (len(COLOURS), len(SHAPES), len(CELLS))
        captions = [f"a {colour} {shape} at the {cell}" for colour in colours for shape in SHAPES for cell in CELLS]
        seen = directions(reader.pictures(list(pictures), description=f"zero-shot {self.split}"))
        table = (seen @ directions(reader.texts(captions)).T).view(-1, *counts)
        row = torch.arange(self.count)
        colour, shape = torch.from_numpy(drawn.colour[:, 0]), torch.from_numpy(drawn.shape[:, 0])
        cell = torch.from_numpy(drawn.cell())
        chosen = {
            "colour": table[row, :, shape, cell].argmax(dim=-1).tolist(),
            "shape": table[row, colour, :, cell].argmax(dim=-1).tolist(),
            "place": table[row, colour, shape].argmax(dim=-1).tolist(),
        }
        truth = {"colour": colour.tolist(), "shape": shape.tolist(), "place": cell.tolist()}
        names = {"colour": colours, "shape": list(SHAPES), "place": CELLS}
        ids = [f"{self.split}/{number:06d}" for number in range(self.count)]
        measures = {
            kind: Measure(ids, [a == b for a, b in zip(chosen[kind], truth[kind], strict=True)]) for kind in names
        }
        answers = [
            {"id": ids[n]}
            | {kind: names[kind][truth[kind][n]] for kind in names}
            | {f"predicted_{kind}": names[kind][chosen[kind][n]] for kind in names}
            for n in range(self.count)
        ]
        return Outcome(measures, answers, chance={kind: 1 / len(names[kind]) for kind in names})
