"""Predictions of any published form are joined by what they are about; losses are counted, clashes refused."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from common.qa.benchmarks import Benchmark, BenchmarkError, Item, vcgbench, zero_shot
from common.qa.predictions import join


@pytest.fixture
def qa(zero_shot_files: dict[str, str]) -> Benchmark:
    return zero_shot(**zero_shot_files, name="x")


def file(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


def by_id(benchmark: Benchmark) -> list[dict[str, Any]]:
    return [
        {"id": item.id, "question": item.questions[0], "answer": item.reference, "pred": f"it is {item.id}"}
        for item in benchmark.items
    ]


def by_words(benchmark: Benchmark) -> list[dict[str, Any]]:
    return [
        {"video_name": item.video, "Q": item.questions[0], "A": item.reference, "pred": f"it is {item.id}"}
        for item in benchmark.items
    ]


@pytest.mark.parametrize("form", [by_id, by_words])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_both_published_forms_are_taken_in_any_order_and_number_of_shards(
    form: Any, suffix: str, qa: Benchmark, tmp_path: Path
) -> None:
    rows = form(qa)
    whole = join(qa, [file(tmp_path / f"whole{suffix}", rows)])
    assert whole.texts == {item.id: (f"it is {item.id}",) for item in qa.items}
    random.Random(1).shuffle(rows)
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        file(shards / f"{number}{suffix}", rows[number::3])
    assert join(qa, [shards]) == whole
    assert join(qa, sorted(shards.iterdir(), reverse=True)) == whole


def test_a_pair_may_be_one_row_or_two(vcg_files: dict[str, str], tmp_path: Path) -> None:
    benchmark = vcgbench(consistency=vcg_files["consistency"])
    rows: list[dict[str, Any]] = [
        {
            "video_name": "v_b",
            "Q1": "What is played?",
            "Q2": "Which game do they play?",
            "A": "Chess",
            "pred1": "chess",
            "pred2": "go",
        },
        {"id": "consistency/v_c/0#2", "pred": "the right one"},
    ]
    answers = join(benchmark, [file(tmp_path / "p.json", rows)])
    assert answers.texts == {"consistency/v_b/0": ("chess", "go")}
    assert answers.unanswered == ("consistency/v_c/0",)  # half a pair is no answer
    rows.append({"question_id": "consistency/v_c/0#1", "pred": "the left one"})
    answers = join(benchmark, [file(tmp_path / "p.json", rows)])
    assert answers.texts["consistency/v_c/0"] == ("the left one", "the right one")
    rows[2]["question_id"] = "consistency/v_c/0"
    with pytest.raises(BenchmarkError, match="give pred1 and pred2, or ids with #1 and #2"):
        join(benchmark, [file(tmp_path / "p.json", rows)])


def test_what_is_lost_is_counted_with_its_reason(qa: Benchmark, tmp_path: Path) -> None:
    rows = by_id(qa)[:3]
    rows[1] = {"id": "a_1", "pred": None, "error": "videos/v_a.mp4: not there"}
    rows.append(rows[0])
    rows[2]["answer"] = "yes"
    answers = join(qa, [file(tmp_path / "p.jsonl", rows)])
    assert sorted(answers.texts) == ["a_0", "b_0"]
    assert answers.failed == {"a_1": "videos/v_a.mp4: not there"}
    assert answers.unanswered == ("c_0",)
    assert (answers.repeated, answers.other_reference) == (1, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "z_9", "pred": "x"}, r"p.json row 4: id 'z_9' is no item of the benchmark"),
        ({"id": "a_0", "pred": "another"}, "another prediction for 'a_0' than in an earlier row"),
        ({"id": "a_0", "text": "x"}, r"no pred \(or pred1 and pred2\); the row has \['id', 'text'\]"),
        ({"id": "a_0", "pred": 3}, "pred should hold text, or null"),
        ({"id": "a_0", "pred1": "x", "pred2": "y"}, "2 predictions for the one question"),
        ({"video_name": "v_a", "Q": "what flies", "pred": "x"}, "the benchmark has no question .'what flies'"),
        ({"video_name": "v_a", "Q": "what runs", "A": "cat", "pred": "x"}, "about 'v_a' and the answer 'cat'"),
    ],
)
def test_a_row_that_fits_nothing_is_refused(row: dict[str, Any], message: str, qa: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=message):
        join(qa, [file(tmp_path / "p.json", [*by_id(qa), row])])


def test_no_file_at_all_is_refused(qa: Benchmark, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BenchmarkError, match="no prediction file is named"):
        join(qa, [])
    with pytest.raises(BenchmarkError, match=r"a folder without \.json or \.jsonl"):
        join(qa, [empty])


def test_questions_that_read_alike_are_told_by_their_answer_or_refused(tmp_path: Path) -> None:
    same = [Item(str(n), "v", ("what?",), reference, None, ("answer",)) for n, reference in enumerate(("a", "b", "b"))]
    benchmark = Benchmark("x", tuple(same), ())
    row = {"video_name": "v", "question": "what?"}
    told = [
        {**row, "answer": "b", "pred": "1"},
        {**row, "answer": "a", "pred": "0"},
        {**row, "answer": "b", "pred": "2"},
    ]
    answers = join(benchmark, [file(tmp_path / "p.json", told)])
    assert answers.texts == {"0": ("0",), "1": ("1",), "2": ("2",)}
    told.append({**row, "answer": "b", "pred": "2"})
    assert join(benchmark, [file(tmp_path / "p.json", told)]).repeated == 1
    told[3]["pred"] = "3"
    with pytest.raises(BenchmarkError, match="another prediction"):
        join(benchmark, [file(tmp_path / "p.json", told)])
    with pytest.raises(BenchmarkError, match=r"several questions read like this \(a, b, b\); give id or A"):
        join(benchmark, [file(tmp_path / "p.json", [{**row, "pred": "x"}])])
