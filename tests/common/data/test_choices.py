"""Questions with options: the styles of file, and every way in which a row can be wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.data.choices import Files, load_choices
from common.data.conversations import DataError
from common.data.forms import Turn

MVBENCH = {"video": "a.mp4", "question": "What moves?", "candidates": ["A dog.", "A cat."], "answer": "A cat."}
VIDEO_MME = {
    "video_id": "001",
    "videoID": "xyz",
    "duration": "short",
    "task_type": "Counting Problem",
    "question_id": "001-1",
    "question": "How many?",
    "options": ["A. One.", "B. Two.", "C. Three."],
    "answer": "C",
}
OWN = {
    "id": "7",
    "messages": [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "red"}],
    "videos": ["a.mp4"],
    "type": "colour",
    "choices": ["blue", "red"],
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_mvbench_is_a_folder_of_tasks(tmp_path: Path) -> None:
    write(tmp_path / "action_count.json", MVBENCH, {**MVBENCH, "video": "b.mp4", "answer": "A dog."})
    write(tmp_path / "state_change.json", MVBENCH)
    folders = {"action_count": "perception/videos", "state_change": "other"}
    first, second, third = load_choices(tmp_path, files=Files(folders=folders))
    assert (first.asked.video, second.asked.video, third.asked.video) == (
        "perception/videos/a.mp4",
        "perception/videos/b.mp4",
        "other/a.mp4",
    )
    assert (first.right, second.right) == (1, 0)
    assert first.choices == ("A dog.", "A cat.")
    assert first.asked.turns == (Turn("<video>\nWhat moves?", None),)
    assert (first.asked.type, third.asked.type) == ("action_count", "state_change")
    assert (first.asked.id, second.asked.id) == ("action_count/0", "action_count/1")


def test_a_part_of_a_video_is_asked_for_only_where_the_videos_are_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "task.json", {**MVBENCH, "start": 1.5, "end": 4.0})
    with pytest.raises(DataError, match=r"task\.json row 0, start: asks for a part of the video.*cut=true"):
        load_choices(path)
    assert len(load_choices(path, files=Files(cut=True))) == 1


def test_video_mme_by_row_and_by_video(tmp_path: Path) -> None:
    (flat,) = load_choices(write(tmp_path / "flat.json", VIDEO_MME))
    assert (flat.asked.video, flat.asked.id, flat.asked.type) == ("xyz", "001-1", "Counting Problem")
    assert flat.choices == ("One.", "Two.", "Three.")
    assert (flat.right, flat.asked.options) == (2, 3)
    by_video = {key: VIDEO_MME[key] for key in ("video_id", "duration")}
    questions = [{**VIDEO_MME, "question_id": f"001-{n}"} for n in (1, 2)]
    for question in questions:
        del question["videoID"], question["duration"]
    grouped = load_choices(
        write(tmp_path / "grouped.json", {**by_video, "questions": questions}), files=Files(kind="duration")
    )
    assert [each.asked.id for each in grouped] == ["001-1", "001-2"]
    assert {(each.asked.video, each.asked.type) for each in grouped} == {("001", "short")}


def test_lines_of_json_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps(VIDEO_MME) + "\n" + json.dumps(VIDEO_MME) + "\n")
    assert len(load_choices(path)) == 2


def test_conversations_with_choices(tmp_path: Path) -> None:
    open_end = {**OWN, "messages": OWN["messages"][:1], "answer": "B. red", "choices": ["A. blue", "B. red"]}
    ended, asked = load_choices(write(tmp_path / "own.json", OWN, open_end))
    assert ended.asked.turns == asked.asked.turns == (Turn("<video>What?", None),)
    assert ended.choices == asked.choices == ("blue", "red")
    assert ended.right == asked.right == 1
    assert ended.asked.type == "colour"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**MVBENCH, "candidates": ["x", "y", "x "]}, r"candidates: holds 'x' 2 times"),
        ({**MVBENCH, "answer": "A bird."}, r"answer: 'A bird\.' is not among 'A dog\.', 'A cat\.'"),
        ({**MVBENCH, "candidates": [str(n) for n in range(27)]}, r"candidates: holds 27 options; 2 to 26"),
        ({**MVBENCH, "candidates": ["A cat."]}, r"candidates: holds 1 options"),
        ({**MVBENCH, "candidates": "A cat."}, r"candidates: is not a list of texts"),
        ({**MVBENCH, "candidates": ["", "A cat."]}, r"candidates: holds an option that is empty"),
        ({**MVBENCH, "question": "<video> What?"}, r"question: is empty or contains <video>"),
        ({**MVBENCH, "video": None}, r"video: should be text, is missing"),
        ({**VIDEO_MME, "answer": "D"}, r"answer: is 'D', not one of A, B, C"),
        ({**VIDEO_MME, "answer": "AB"}, r"answer: is 'AB', not one of"),
        ({**VIDEO_MME, "options": ["B. x", "A. y"]}, r"options: have the letters B, A"),
        ({**VIDEO_MME, "task_type": None}, r"task_type: should be text, is missing"),
        ({"questions": []}, r"questions: is not a list of questions"),
        ({**OWN, "answer": "blue"}, r"answer: is 'blue', the conversation ends with 'red'"),
        ({**OWN, "messages": OWN["messages"][:1]}, r"answer: is missing"),
        ({"video": "a.mp4", "q": "What?"}, r"keys: .* hold no options to choose from"),
        ("text", r"row: is str, not an object"),
    ],
)
def test_what_is_wrong_is_named(row: Any, message: str, tmp_path: Path) -> None:
    good = OWN if isinstance(row, dict) and "choices" in row else MVBENCH
    with pytest.raises(DataError, match=rf"rows\.json row 1, {message}"):
        load_choices(write(tmp_path / "rows.json", good, row))


def test_a_task_without_a_folder_an_empty_folder_and_parquet(tmp_path: Path) -> None:
    write(tmp_path / "task.json", MVBENCH)
    with pytest.raises(DataError, match="folders names no folder for task"):
        load_choices(tmp_path, files=Files(folders={"tasks": "x"}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.json"):
        load_choices(tmp_path / "empty")
    with pytest.raises(DataError, match="to_json"):
        load_choices(tmp_path / "test.parquet")
