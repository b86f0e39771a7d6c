"""The table of scores: views, references, tasks, gains."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from common.metrics.image import psnr, ssim
from common.shapes_world.edits import draw_edits
from projects.pix2pix_video.rows import EditRow
from projects.pix2pix_video.scores import EditScores

CPU = torch.device("cpu")


def rows(count: int, tasks: tuple[str, ...] = ("drop", "move")) -> list[EditRow]:
    return [EditRow(f"r{n}", (), "", "do it", task=tasks[n % len(tasks)] if tasks else "") for n in range(count)]


def pictures(seed: int, count: int = 6) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def near(truth: Tensor, share: float) -> Tensor:
    return (truth.float() * (1 - share) + 128 * share).round().to(torch.uint8)


def update(scores: EditScores, view: str, part: slice = slice(None), each: list[EditRow] | None = None) -> None:
    truth = pictures(0)
    scores.update(
        view,
        rows=(each or rows(6))[part],
        pred=near(truth, 0.1)[part],
        truth=truth[part],
        last=pictures(1)[part],
        round_trip=near(truth, 0.05)[part],
    )


def test_a_view_and_its_two_references() -> None:
    scores = EditScores()
    scores.start(["real"], CPU)
    update(scores, "real", slice(0, 4))
    update(scores, "real", slice(4, 6))
    logged = scores.finish()
    report = scores.report()
    assert list(report) == ["real", "copy_last", "vae_round_trip"]
    truth = pictures(0)
    for name, pred in (("real", near(truth, 0.1)), ("copy_last", pictures(1)), ("vae_round_trip", near(truth, 0.05))):
        for column, metric in (("psnr", psnr), ("ssim", ssim)):
            cell = report[name][column]
            values = metric(pred, truth)
            assert cell.value == pytest.approx(values.mean().item())
            assert cell.high - cell.value == pytest.approx(1.96 * values.std().item() / 6**0.5, rel=1e-3)
            assert cell.cases == 6
            assert report[name][f"{column}/move"].value == pytest.approx(values[1::2].mean().item())
            assert report[name][f"{column}/move"].cases == 3
    assert logged["psnr"] == report["real"]["psnr"].value
    assert logged["psnr_copy_last"] == report["copy_last"]["psnr"].value
    assert logged["ssim/drop"] == report["real"]["ssim/drop"].value


def test_gains_are_differences_row_by_row() -> None:
    scores = EditScores()
    scores.start(["real"], CPU)
    update(scores, "real")
    scores.finish()
    truth = pictures(0)
    gain = psnr(near(truth, 0.1), truth) - psnr(pictures(1), truth)
    cell = scores.report()["real"]["psnr_gain"]
    assert cell.value == pytest.approx(gain.mean().item(), rel=1e-5)
    assert cell.high - cell.low == pytest.approx(2 * 1.96 * gain.std().item() / 6**0.5, rel=1e-3)
    assert "psnr_gain" not in scores.report()["copy_last"]


def test_references_are_of_the_first_view_and_a_row_counts_once() -> None:
    scores = EditScores()
    scores.start(["real", "blind"], CPU)
    update(scores, "real")
    update(scores, "real", slice(0, 2))  # as a loader that fills up its last batch repeats rows
    update(scores, "blind", slice(0, 3))
    scores.finish()
    report = scores.report()
    assert {name: row["psnr"].cases for name, row in report.items()} == {
        "real": 6,
        "blind": 3,
        "copy_last": 6,
        "vae_round_trip": 6,
    }


def test_a_new_epoch_begins_empty_and_without_rows_there_is_nothing() -> None:
    scores = EditScores()
    scores.start(["real"], CPU)
    update(scores, "real")
    assert scores.finish()
    scores.start(["real"], CPU)
    assert scores.finish() == {}
    assert scores.report() == {}


def test_rows_without_a_task_have_no_columns_per_task() -> None:
    scores = EditScores()
    scores.start(["real"], CPU)
    update(scores, "real", each=rows(6, ()))
    assert not any("/" in column for column in scores.finish())


class Far(nn.Module):
    """In the place of LPIPS: mean difference."""

    def forward(self, pred: Tensor, truth: Tensor) -> Tensor:
        return (pred.float() - truth.float()).abs().flatten(1).mean(dim=1)


def test_lpips_has_a_column_where_it_is_given_and_is_built_once() -> None:
    built = []
    scores = EditScores(lpips=lambda: built.append(1) or Far())
    for _ in range(2):
        scores.start(["real"], CPU)
        update(scores, "real")
        scores.finish()
    assert built == [1]
    for name in ("real", "copy_last", "vae_round_trip"):
        assert {"lpips", "lpips/drop", "lpips/move"} <= set(scores.report()[name])
    expected = Far()(near(pictures(0), 0.1), pictures(0)).mean().item()
    assert scores.report()["real"]["lpips"].value == pytest.approx(expected)


@pytest.mark.parametrize("follow", [True, False])
def test_built_in_edits_are_checked_on_demand(follow: bool) -> None:
    scores = EditScores(follow=follow)
    scores.start(["real"], CPU)
    for index in range(4):
        edits = draw_edits(seed=2, split="test", index=index, size=32, frames=20, lead=4)
        for side, edit in enumerate(edits):  # rows of a pair may come in different batches
            truth = torch.from_numpy(edit.target(size=32)).permute(2, 0, 1)[None]
            last = torch.from_numpy(edit.history(size=32)[-1]).permute(2, 0, 1)[None]
            row = EditRow(f"{index}/{side}", (), "", edit.instruction, edit.kind, pair=str(index))
            pred = last if index == 0 else truth
            scores.update("real", rows=[row], pred=pred, truth=truth, last=last, round_trip=truth)
    logged = scores.finish()
    assert ("followed" in logged) == follow
    if follow:
        assert logged["followed"] == 0.75
        assert scores.report()["real"]["followed"].cases == 4
        assert "followed" not in scores.report()["vae_round_trip"]


def test_predictions_and_truths_are_written_on_demand(tmp_path: Path) -> None:
    scores = EditScores(pictures=str(tmp_path / "pictures"))
    scores.start(["real", "blind"], CPU)
    each = [replace(row, id=f"test/{row.id}") for row in rows(6)]
    update(scores, "real", slice(0, 3), each)
    update(scores, "blind", slice(3, 5), each)
    found = sorted(str(path.relative_to(tmp_path / "pictures")) for path in tmp_path.rglob("*.png"))
    assert found == [
        *(f"blind/test%2Fr{n}.png" for n in (3, 4)),
        *(f"{folder}/test%2Fr{n}.png" for folder in ("real", "truth") for n in range(3)),
    ]
    with Image.open(tmp_path / "pictures" / "truth" / "test%2Fr1.png") as image:
        assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), pictures(0)[1])
