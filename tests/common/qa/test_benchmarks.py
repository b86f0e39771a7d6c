"""The published file layouts are read; what does not fit is refused by file, row and field."""

import json
import random
from pathlib import Path

import pytest

from common.qa.ask import write_questions
from common.qa.benchmarks import BenchmarkError, conversations, missing_videos, vcgbench, zero_shot
from common.qa.predictions import join


def rewrite(path: str, change: object) -> None:
    rows = json.loads(Path(path).read_text())
    change(rows)  # type: ignore[operator]
    Path(path).write_text(json.dumps(rows))


def test_vcgbench_has_five_aspects_and_counts_rows_of_a_video(vcg_files: dict[str, str]) -> None:
    benchmark = vcgbench(**vcg_files)
    assert [item.id for item in benchmark.items] == [
        "generic/v_a/0",
        "generic/v_b/0",
        "generic/v_a/1",
        "temporal/v_a/0",
        "consistency/v_b/0",
        "consistency/v_c/0",
    ]
    assert benchmark.aspects == ("correctness", "detail", "context", "temporal", "consistency")
    assert benchmark.items[0].aspects == ("correctness", "detail", "context")
    assert benchmark.items[4].questions == ("What is played?", "Which game do they play?")
    assert benchmark.items[4].reference == "Chess"


def test_a_part_of_vcgbench_is_a_benchmark_too(vcg_files: dict[str, str]) -> None:
    assert vcgbench(temporal=vcg_files["temporal"]).aspects == ("temporal",)
    with pytest.raises(BenchmarkError, match="at least one of generic"):
        vcgbench()


def test_questions_and_answers_are_joined_by_id_and_not_by_place(zero_shot_files: dict[str, str]) -> None:
    ordered = zero_shot(**zero_shot_files, name="x")
    assert {item.id: item.reference for item in ordered.items} == {
        "a_0": "dog",
        "a_1": "red",
        "b_0": "no",
        "c_0": "two",
    }
    rewrite(zero_shot_files["answers"], random.Random(0).shuffle)
    assert zero_shot(**zero_shot_files, name="x").items == ordered.items
    assert [item.type for item in ordered.items] == ["1", "2", "1", "2"]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("answers", lambda rows: rows.pop(), r"questions without an answer in .*test_a.json: a_0; are both"),
        ("questions", lambda rows: rows.pop(0), r"answers without a question in .*test_q.json: a_0; are both"),
        (
            "questions",
            lambda rows: rows.append(rows[0]),
            r"test_q.json row 4: question_id 'a_0' is there twice.* row 0",
        ),
        ("answers", lambda rows: rows.append(rows[0]), r"test_a.json row 4: question_id 'c_0' is there twice"),
        ("answers", lambda rows: rows[1].pop("answer"), r"test_a.json row 1: answer is None; it should hold text"),
        ("questions", lambda rows: rows[2].update(video_name=""), r"test_q.json row 2: video_name is ''"),
        ("questions", lambda rows: rows.__setitem__(0, "text"), r"test_q.json row 0: is str, not an object"),
        ("questions", lambda rows: rows.clear(), r"test_q.json: holds no rows"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    file: str, change: object, message: str, zero_shot_files: dict[str, str]
) -> None:
    rewrite(zero_shot_files[file], change)
    with pytest.raises(BenchmarkError, match=message):
        zero_shot(**zero_shot_files, name="x")


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"generic\.json: no such file"):
        vcgbench(generic=str(tmp_path / "generic.json"))
    (tmp_path / "generic.json").write_text("[{]")
    with pytest.raises(BenchmarkError, match="neither a JSON list nor one JSON object a line"):
        vcgbench(generic=str(tmp_path / "generic.json"))


def test_conversation_files_are_benchmarks(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "<video>What colour?"}, {"role": "assistant", "content": "red"}]
    row = {"id": "test/1/colour", "messages": messages, "videos": ["clips/1.mp4"], "type": "colour"}
    path = tmp_path / "test.json"
    path.write_text(json.dumps([row]))
    item = conversations(annotations=str(path), name="shapes").items[0]
    assert (item.id, item.video, item.questions, item.reference, item.type, item.aspects) == (
        "test/1/colour",
        "clips/1.mp4",
        ("What colour?",),
        "red",
        "colour",
        ("answer",),
    )
    path.write_text(json.dumps([row, row]))
    with pytest.raises(BenchmarkError, match="row 1: the id 'test/1/colour' is there twice"):
        conversations(annotations=str(path), name="shapes")


def test_missing_videos_are_listed_whatever_their_extension(vcg_files: dict[str, str], tmp_path: Path) -> None:
    media = tmp_path / "videos"
    media.mkdir()
    (media / "v_a.mkv").touch()
    (media / "v_b").mkdir()  # a folder of frames
    assert missing_videos(vcgbench(**vcg_files), media) == ["v_c"]
    with pytest.raises(BenchmarkError, match="no such folder"):
        missing_videos(vcgbench(**vcg_files), tmp_path / "nowhere")


def test_questions_written_for_generation_come_back_by_their_ids(vcg_files: dict[str, str], tmp_path: Path) -> None:
    benchmark = vcgbench(**vcg_files)
    path = tmp_path / "questions.json"
    assert write_questions(questions=benchmark, output=str(path)) == {"questions": 8, "videos": 3}
    asked = conversations(annotations=str(path), name="asked")
    assert asked.items[0].questions == ("What happens?",)
    predictions = tmp_path / "predictions.jsonl"
    rows = [{"id": item.id, "pred": f"{item.questions[0]} yes"} for item in reversed(asked.items)]
    predictions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = join(benchmark, [predictions])
    assert answers.unanswered == ()
    assert answers.texts["generic/v_a/1"] == ("Where is it? yes",)
    assert answers.texts["consistency/v_c/0"] == ("Who wins? yes", "Which one is the winner? yes")


def test_a_video_may_be_a_list_of_frames(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "<video>What colour?"}, {"role": "assistant", "content": "red"}]
    row = {"id": "1", "messages": messages, "videos": [["1/a.png", "1/b.png"]]}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    benchmark = conversations(annotations=str(tmp_path / "test.json"), name="x")
    assert write_questions(questions=benchmark, output=str(tmp_path / "asked.json")) == {"questions": 1, "videos": 1}
    again = conversations(annotations=str(tmp_path / "asked.json"), name="x")
    assert again.items[0].video == benchmark.items[0].video == ("1/a.png", "1/b.png")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "a.png").touch()
    assert missing_videos(benchmark, tmp_path) == [("1/a.png", "1/b.png")]
    (tmp_path / "1" / "b.png").touch()
    assert missing_videos(benchmark, tmp_path) == []
