"""Splits: the source's own, or merged into train with a hold-out that a seed decides clip by clip."""

from typing import Any

import pytest

from projects.pix2pix_video.edit_frames import divide
from projects.pix2pix_video.rows import EditRow
from projects.pix2pix_video.sources.found import Sample

COUNTS = {"train": 600, "val": 200, "test": 200}


def samples(**counts: int) -> list[Sample]:
    """Two rows a clip."""
    found = []
    for split, count in (counts or COUNTS).items():
        for number in range(count):
            clip = f"{split}/{number}"
            for kind in ("a", "b"):
                found.append(Sample(EditRow(f"{clip}/{kind}", ("0.jpg",), "1.jpg", "go", pair=clip), split, clip))
    return found


def clips(rows: list[EditRow]) -> set[str]:
    return {row.pair for row in rows}


def parts(**changes: Any) -> dict[str, set[str]]:
    settings: dict[str, Any] = {"merge": [], "holdout": 0.1, "seed": 0, **changes}
    source = settings.pop("source", samples())
    return {split: clips(rows) for split, rows in divide(source, **settings).items()}


def test_official_splits_stay_as_they_are() -> None:
    found = parts()
    assert {split: len(names) for split, names in found.items()} == COUNTS
    assert all(name.startswith(f"{split}/") for split, names in found.items() for name in names)


def test_a_merged_split_joins_train_and_is_filled_by_a_hold_out() -> None:
    found = parts(merge=["val"])
    assert found["test"] == parts()["test"]
    assert found["train"] | found["val"] == parts()["train"] | parts()["val"]
    assert found["train"].isdisjoint(found["val"])
    assert 50 <= len(found["val"]) <= 110  # 0.1 of 800, within four standard deviations
    assert {name.split("/")[0] for name in found["val"]} == {"train", "val"}


def test_both_splits_may_be_merged() -> None:
    found = parts(merge=["val", "test"])
    assert sum(len(names) for names in found.values()) == 1000
    assert 62 <= len(found["val"]) <= 138
    assert 62 <= len(found["test"]) <= 138
    assert found["val"].isdisjoint(found["test"])
    assert found == parts(merge=["test", "val"])


def test_a_split_that_the_source_lacks_is_held_out_of_train() -> None:
    found = parts(source=samples(train=600, val=200), merge=["test"])
    assert len(found["val"]) == 200
    assert len(found["train"]) + len(found["test"]) == 600
    assert found["test"]


def test_rows_of_one_clip_stay_together() -> None:
    for seed in range(5):
        found = divide(samples(), merge=["val"], holdout=0.3, seed=seed)
        assert clips(found["train"]).isdisjoint(clips(found["val"]))
        assert sum(len(rows) for rows in found.values()) == 2000


def test_the_seed_decides_and_nothing_else() -> None:
    found = parts(merge=["val"])
    assert parts(merge=["val"]) == found
    assert parts(merge=["val"], source=samples()[::-1]) == found
    assert parts(merge=["val"], seed=1)["val"] != found["val"]
    fewer = parts(merge=["val"], source=samples(train=600, val=100))
    assert fewer["val"] == {name for name in found["val"] if name in fewer["val"] | fewer["train"]}


def test_an_empty_hold_out_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no rows for val out of 6; change task.holdout or task.seed"):
        parts(source=samples(train=3), merge=["val"], holdout=1e-9)
    with pytest.raises(ValueError, match="no rows for train"):
        parts(source=samples(val=3))
