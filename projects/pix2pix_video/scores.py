"""How near predicted frames are to the true ones, beside what copying and the autoencoder alone would reach."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import torch
from PIL import Image
from torch import Tensor, nn

from common.files import atomic_write_bytes
from common.metrics.gather import gathered
from common.metrics.image import psnr, ssim
from common.metrics.interval import Estimate, mean
from common.types import Build
from projects.pix2pix_video.instruction_check import Sighting, followed, sighting
from projects.pix2pix_video.rows import EditRow

REFERENCES = ("copy_last", "vae_round_trip")
Measure = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Scored:
    """One row: its task, its scores by name, and what the tracker saw of it."""

    task: str
    values: Mapping[str, float]
    seen: Sighting | None = None


class EditScores:
    """PSNR, SSIM and, where its weights are given, LPIPS: mean over rows and per task, with 95 % intervals.

    A report has a row for each view and, for the rows of the first view, two references. `copy_last` takes the newest
    frame of the history for the prediction: a model that is not better has learned nothing. `vae_round_trip` takes the
    truth through the autoencoder: no latent model can be better. `psnr_gain` and `ssim_gain` are means of the
    differences to `copy_last`, row by row, which are far more certain than the difference of two means.
    """

    def __init__(
        self, *, lpips: Build[nn.Module] | None = None, follow: bool = False, pictures: str | None = None
    ) -> None:
        """
        Args:
            lpips: recipe of `common.metrics.lpips.Lpips`; None leaves the column out.
            follow: whether the built-in edits are also checked for doing what their instruction says.
            pictures: folder for the predictions of each view and, in `truth`, the targets of the first, as PNG, which
                `prepare task=picture_metrics` compares; None writes none.
        """
        self.make_lpips, self.follow = lpips, follow
        self.folder = None if pictures is None else Path(pictures)
        self._measures: dict[str, Measure] = {"psnr": psnr, "ssim": ssim}
        self._tables: dict[str, dict[str, Scored]] = {}
        self._report: dict[str, dict[str, Estimate]] = {}
        self._first = ""

    def start(self, views: Sequence[str], device: torch.device) -> None:
        """Begins an epoch over the views, the first of which gives the references."""
        self._first = views[0]
        self._tables = {name: {} for name in (*views, *REFERENCES)}
        if self.make_lpips is not None and "lpips" not in self._measures:
            self._measures["lpips"] = self.make_lpips().to(device)

    def update(
        self, view: str, *, rows: Sequence[EditRow], pred: Tensor, truth: Tensor, last: Tensor, round_trip: Tensor
    ) -> None:
        """Adds rows of a view.

        Args:
            view: one of those that the epoch started with.
            rows: B of them.
            pred: predictions, uint8 (B, 3, H, W).
            truth: targets, uint8 (B, 3, H, W).
            last: newest frames of the histories, uint8 (B, 3, H, W).
            round_trip: targets, encoded and decoded, uint8 (B, 3, H, W).
        """
        copied = self._measure(last, truth)
        scores = self._measure(pred, truth)
        gains = {f"{name}_gain": scores[name] - copied[name] for name in ("psnr", "ssim")}
        self._add(view, rows, scores | gains, self._look(rows, pred, truth))
        if view == self._first:
            self._add("copy_last", rows, copied)
            self._add("vae_round_trip", rows, self._measure(round_trip, truth))
        if self.folder is not None:
            _write(self.folder / view, rows, pred)
            if view == self._first:
                _write(self.folder / "truth", rows, truth)

    def _measure(self, pred: Tensor, truth: Tensor) -> dict[str, Tensor]:
        return {name: measure(pred, truth).cpu() for name, measure in self._measures.items()}

    def _look(self, rows: Sequence[EditRow], pred: Tensor, truth: Tensor) -> list[Sighting | None]:
        """What the tracker sees of rows that have a partner."""
        if not self.follow:
            return [None] * len(rows)
        return [
            sighting(row=row.id, pair=row.pair, kind=row.task, pred=guess, truth=target) if row.pair else None
            for row, guess, target in zip(rows, pred.cpu(), truth.cpu(), strict=True)
        ]

    def _add(
        self,
        table: str,
        rows: Sequence[EditRow],
        values: Mapping[str, Tensor],
        seen: Sequence[Sighting | None] | None = None,
    ) -> None:
        for number, row in enumerate(rows):
            scores = {name: float(column[number]) for name, column in values.items()}
            self._tables[table][row.id] = Scored(row.task, scores, seen[number] if seen else None)

    def finish(self) -> dict[str, float]:
        """Ends the epoch on all ranks together.

        Returns:
            For the log: columns of the first view by name, `psnr` or `psnr/<task>`, and those of the references over
            all rows, `psnr_copy_last`. Empty where no row was scored.
        """
        self._report = {}
        for name, table in self._tables.items():
            columns = _columns(gathered(table))
            if columns:
                self._report[name] = columns
        scalars = {column: cell.value for column, cell in self._report.get(self._first, {}).items()}
        for name in REFERENCES:
            cells = self._report.get(name, {}).items()
            scalars |= {f"{column}_{name}": cell.value for column, cell in cells if "/" not in column}
        return scalars

    def report(self) -> Mapping[str, Mapping[str, Estimate | float]]:
        """Columns by row of the last epoch: the views, then the references."""
        return self._report


def _write(folder: Path, rows: Sequence[EditRow], pictures: Tensor) -> None:
    for row, picture in zip(rows, pictures.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG")
        name = quote(row.id, safe=" ")  # ids may be paths, and two of them must not become one file
        atomic_write_bytes(folder / f"{name}.png", buffer.getvalue())


def _columns(rows: Mapping[str, Scored]) -> dict[str, Estimate]:
    """Means over all rows, the check of instructions, then means per task."""
    groups: dict[str, list[Scored]] = {}
    for row in rows.values():
        if row.task:
            groups.setdefault(row.task, []).append(row)
    columns = _means(list(rows.values()), names=None, suffix="")
    columns |= followed({name: row.seen for name, row in rows.items() if row.seen is not None})
    for task, members in sorted(groups.items()):
        columns |= _means(members, names=("psnr", "ssim", "lpips"), suffix=f"/{task}")
    return columns


def _means(rows: Sequence[Scored], *, names: Sequence[str] | None, suffix: str) -> dict[str, Estimate]:
    held = rows[0].values if rows else {}
    return {
        f"{name}{suffix}": mean(sum(values), sum(value * value for value in values), len(values))
        for name in held
        if names is None or name in names
        for values in [[row.values[name] for row in rows]]
    }
