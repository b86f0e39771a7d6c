"""Recall among known neighbours, against a count by hand; tables in both forms."""

import json
from pathlib import Path

import pytest
import torch

from common.files import write_jsonl
from projects.genhancer.benchmarks.outcome import BenchmarkError
from projects.genhancer.benchmarks.retrieval import Retrieval, ranks_of
from tests.projects.genhancer.benchmarks.towers import grey_reader, write_grey


def test_ranks_are_those_of_a_sorted_list() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures, texts = torch.randn(12, 6, generator=generator), torch.randn(30, 6, generator=generator)
    owner = torch.cat([torch.arange(12), torch.randint(12, (18,), generator=generator)])
    ranks = ranks_of(pictures, texts, owner)
    for number in range(12):
        order = sorted(range(30), key=lambda t: -float(texts[t] @ pictures[number]))
        first = next(place for place, text in enumerate(order) if owner[text] == number)
        assert ranks["text"][number] == first  # nothing but texts of others comes before the first own one
    for text in range(30):
        order = sorted(range(12), key=lambda p: -float(texts[text] @ pictures[p]))
        assert ranks["image"][text] == order.index(int(owner[text]))


def test_what_sees_nothing_finds_nothing() -> None:
    same = torch.ones(5, 3)
    ranks = ranks_of(same, same, torch.arange(5))
    assert ranks == {"text": [4] * 5, "image": [4] * 5}


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for name, level in (("white.png", 255), ("grey.png", 128), ("black.png", 0)):
        write_grey(tmp_path / "media" / "deep" / name, level)
    return tmp_path / "media"


CAPTIONS = {"deep/white.png": ["light", "very light"], "deep/grey.png": ["same"], "deep/black.png": ["light again"]}


def test_recall_of_a_small_table(media: Path, tmp_path: Path) -> None:
    rows = [{"image": image, "captions": captions} for image, captions in CAPTIONS.items()]
    write_jsonl(tmp_path / "table.jsonl", rows)
    benchmark = Retrieval(table=str(tmp_path / "table.jsonl"), media=str(media))
    assert json.dumps(benchmark.identity())
    outcome = benchmark.run(grey_reader())
    # The white and the grey picture find theirs first, but "light again" is as near to white as its own: no hit.
    assert outcome.measures["text@1"].right == [False, True, False]
    assert outcome.measures["image@1"].right == [True, True, True, False]
    assert outcome.measures["image@5"].right == [True] * 4
    assert [row["rank"] for row in outcome.answers if row["asked"] == "image"] == [1, 1, 1, 3]
    assert outcome.report()["image@1"]["all"].value == pytest.approx(3 / 4)
    assert len(set(outcome.measures["image@1"].ids)) == 4


def test_tables_in_other_forms_say_the_same(media: Path, tmp_path: Path) -> None:
    flat = [{"image": image, "caption": text, "split": "test"} for image, texts in CAPTIONS.items() for text in texts]
    write_jsonl(tmp_path / "flat.jsonl", [*flat, {"image": "other.png", "caption": "dark", "split": "train"}])
    images = [
        {"filepath": "deep", "filename": image[5:], "split": "test", "sentences": [{"raw": text} for text in texts]}
        for image, texts in CAPTIONS.items()
    ]
    train = {"filename": "other.png", "split": "train", "sentences": [{"raw": "dark"}]}
    (tmp_path / "dataset.json").write_text(json.dumps({"images": [*images, train]}))
    for name in ("flat.jsonl", "dataset.json"):
        benchmark = Retrieval(table=str(tmp_path / name), media=str(media), split="test")
        assert benchmark.captions == CAPTIONS
        benchmark.identity()


def test_wrong_tables_and_missing_pictures_are_told(media: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="is not there"):
        Retrieval(table=str(tmp_path / "none.jsonl"), media=str(media)).identity()
    write_jsonl(tmp_path / "t.jsonl", [{"image": "deep/white.png", "captions": ["light"]}, {"image": "x", "text": "y"}])
    with pytest.raises(BenchmarkError, match=r"line 2 is not \{image, captions\}"):
        Retrieval(table=str(tmp_path / "t.jsonl"), media=str(media)).identity()
    write_jsonl(tmp_path / "t.jsonl", [{"image": f"deep/{n}.png", "caption": "light"} for n in ("white", "gone")])
    with pytest.raises(BenchmarkError, match=r"deep/gone\.png is not there"):
        Retrieval(table=str(tmp_path / "t.jsonl"), media=str(media)).identity()
    with pytest.raises(BenchmarkError, match="names 0 pictures of split val"):
        Retrieval(table=str(tmp_path / "t.jsonl"), media=str(media), split="val").identity()
    (tmp_path / "d.json").write_text('{"annotations": []}')
    with pytest.raises(BenchmarkError, match=r"d\.json is not {images"):
        Retrieval(table=str(tmp_path / "d.json"), media=str(media)).identity()
