"""A benchmark through the commands: published files to questions, answers as `generate` writes them, judge, table."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.chat.request import record
from common.data.conversations import load_conversations
from common.qa.published import rows_for
from launchers.command import compose, run_task

ROOT = Path(__file__).resolve().parents[3]
HIDDEN = "v_3"  # its video is not there
UNANSWERED = {"generic/v_2/0", "consistency/v_2/0#2"}  # no row is about these

VCGBENCH = {
    "generic_qa": [
        {"video_name": video, "Q": f"What happens, {number}?", "A": f"Answer {number}."}
        for number, video in enumerate(("v_0", "v_1", "v_0", "v_2", HIDDEN))
    ],
    "temporal_qa": [{"video_name": video, "Q": "What is first?", "A": f"{video} begins."} for video in ("v_0", "v_1")],
    "consistency_qa": [
        {"video_name": video, "Q1": "Who wins?", "Q2": "Which one is the winner?", "A": "The left man."}
        for video in ("v_0", "v_2")
    ],
}
# Replies to each answered item and aspect. "Fair." is no grade, however often it is asked for.
REPLIES = {
    "correctness": {
        "generic/v_0/0": "{'score': 4.8}",
        "generic/v_1/0": "{''score': 3}",
        "generic/v_0/1": "So: {'score': 2.5}",
    },
    "detail": {"generic/v_0/0": '{"score": 5}', "generic/v_1/0": "{'score': 1.9}", "generic/v_0/1": "{'score': 0}"},
    "context": dict.fromkeys(("generic/v_0/0", "generic/v_1/0", "generic/v_0/1"), "{'score': 4}"),
    "temporal": {"temporal/v_0/0": "{'score': 3}", "temporal/v_1/0": "Fair."},
    "consistency": {"consistency/v_0/0": "{'score': 4.5}"},
}
TRUNCATED = {"correctness": 3.0, "detail": 2.0, "context": 4.0, "temporal": 3.0, "consistency": 4.0}
EXACT = {"correctness": 10.3 / 3, "detail": 2.3, "context": 4.0, "temporal": 3.0, "consistency": 4.5}

Run = Callable[..., dict[str, Any]]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a task with its files below a data root of its own."""

    def task(name: str, *words: str) -> dict[str, Any]:
        where = ["paths.run=.", f"paths.data='{tmp_path}/data'", f"paths.outputs='{tmp_path}/outputs'"]
        return dict(run_task(compose(f"task={name}", *where, *words, config_name="prepare")))

    return task


def answers_of(questions: Path) -> list[dict[str, str | None]]:
    """Lines of `generated.jsonl` for a file of questions: one video cannot be read, two rows got lost."""
    lines = []
    for row in load_conversations(questions):
        if row.id not in UNANSWERED:
            gone = row.video == HIDDEN
            lines.append(record(row, pred=None if gone else f"I see {row.id}.", error="no such file" if gone else None))
    return lines


def recorded(path: Path, said: dict[str, dict[str, str]], *, tries: int) -> str:
    """Replies by aspect and id. One that is no grade is there `tries` times, so that another try would be an error."""
    rows: list[dict[str, Any]] = []
    for aspect, each in said.items():
        for name, reply in each.items():
            row = {"aspect": aspect, "id": name, "reply": reply}
            rows += [row] if "{" in reply else [row | {"attempt": attempt + 1} for attempt in range(tries)]
    write(path, rows)
    return f"task.judge.path='{path}'"


@pytest.fixture
def vcgbench(tmp_path: Path, run: Run) -> list[dict[str, str | None]]:
    """The five aspects' files where the configuration looks for them, and answers to their questions."""
    for name, rows in VCGBENCH.items():
        write(tmp_path / "data" / "vcgbench" / f"{name}.json", rows)
    assert run("questions") == {"questions": 11, "videos": 4}
    return answers_of(tmp_path / "data" / "vcgbench" / "questions.json")


def shards(folder: Path, rows: list[Any], count: int) -> str:
    """Shuffled rows in as many files as processes would write."""
    shuffled = random.Random(count).sample(rows, len(rows))
    for number in range(count):
        write(folder / f"generated_{number}.jsonl", shuffled[number::count])
    return f"task.predictions=['{folder}']"


@pytest.mark.parametrize("rounding", ["truncate", "exact"])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_five_aspects_come_to_known_scores(
    count: int, rounding: str, vcgbench: list[Any], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if count:
        predictions = shards(tmp_path / "shards", vcgbench, count)
    else:
        write(tmp_path / "generated.jsonl", vcgbench)
        predictions = f"task.predictions=['{tmp_path}/generated.jsonl']"
    for video in ("v_0", "v_1", "v_2"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / f"{video}.mp4").touch()
    words = [predictions, "judge@task.judge=recorded", recorded(tmp_path / "said.jsonl", REPLIES, tries=3)]
    headline = run("judge", *words, f"task.rounding={rounding}", f"task.media='{tmp_path}/videos'")
    expected = TRUNCATED if rounding == "truncate" else EXACT
    assert {aspect: headline[aspect] for aspect in expected} == pytest.approx(expected)
    result = json.loads((tmp_path / "outputs" / "judge" / "vcgbench" / "result.json").read_text())
    assert result["average"] == pytest.approx(sum(expected.values()) / 5)
    counts = result["counts"]
    assert (counts["items"], counts["answered"], counts["failed"], counts["unanswered"]) == (9, 6, 1, 2)
    assert counts["failures"] == {"no such file": 1}
    assert result["missing_videos"] == [HIDDEN]
    judged = {aspect: (each["judged"], each["unparsed"], each["items"]) for aspect, each in result["aspects"].items()}
    assert judged["correctness"] == (3, 0, 5)
    assert judged["temporal"] == (1, 1, 2)
    assert judged["consistency"] == (1, 0, 2)
    assert result["aspects"]["temporal"]["score_of_all"] == 1.5
    check_items(tmp_path / "outputs" / "judge" / "vcgbench" / "items.jsonl")
    check_table(capsys.readouterr().out, [*expected.values(), sum(expected.values()) / 5])


def check_items(path: Path) -> None:
    items = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    assert items["temporal/v_1/0"]["grades"]["temporal"]["attempts"] == 3  # task.tries, and no more
    assert items["temporal/v_1/0"]["grades"]["temporal"]["score"] is None
    hidden = items[f"generic/{HIDDEN}/0"]
    assert (hidden["predictions"], hidden["failed"], hidden["grades"]) == (None, "no such file", {})
    for name in ("generic/v_2/0", "consistency/v_2/0"):
        assert (items[name]["predictions"], items[name]["failed"], items[name]["grades"]) == (None, None, {})
    assert items["consistency/v_0/0"]["predictions"] == ["I see consistency/v_0/0#1.", "I see consistency/v_0/0#2."]
    assert items["generic/v_0/1"]["predictions"] == ["I see generic/v_0/1."]


def check_table(shown: str, ours: list[float]) -> None:
    """Ours stands below every published row."""
    rows = [[cell.strip() for cell in line.strip("│┃ ").split("│")] for line in shown.splitlines() if "│" in line]
    table = {cells[0]: cells[1:] for cells in rows}
    assert [f"{value:.2f}" for value in ours] == table["this"][:6]
    published = {model: [f"{value:g}" for value in values] for model, values in rows_for("vcgbench")}
    assert published["Video-ChatGPT"] == ["2.4", "2.52", "2.62", "1.98", "2.37", "2.38"]
    assert {model: cells[:6] for model, cells in table.items() if model in published} == published
    assert list(table)[-1] == "this"
    for words in ("1 failed, 2 without a prediction", "temporal: 1 of 2 judged, 1 unparsed; 1.50 over all"):
        assert words in shown


def test_an_empty_answer_is_an_answer_and_a_null_is_none(vcgbench: list[Any], run: Run, tmp_path: Path) -> None:
    vcgbench[0]["pred"] = ""
    write(tmp_path / "generated.jsonl", vcgbench)
    run("judge", f"task.predictions=['{tmp_path}/generated.jsonl']", "task.judge=null")
    result = json.loads((tmp_path / "outputs" / "judge" / "vcgbench" / "result.json").read_text())
    assert (result["counts"]["answered"], result["counts"]["failed"]) == (6, 1)
    assert result["judge_free"]["predictions"] == 7  # a pair has two


# A zero-shot pair of files

ASKED = [{"video_name": f"v_{n // 2}", "question": f"what is {n}", "question_id": f"q_{n}"} for n in range(6)]
ANSWERED = [{"question_id": f"q_{n}", "answer": f"thing {n}", "type": n % 2} for n in (3, 5, 0, 1, 4, 2)]
SAID = {
    "q_0": "{'pred': 'yes', 'score': 4.8}",
    "q_1": "{'pred': 'no', 'score': 1}",
    "q_2": "{'pred': 'yes', 'score': 5}",
    "q_3": "maybe",
    "q_4": "{'pred': 'no', 'score': 0}",
}


@pytest.mark.parametrize(("rounding", "total"), [("truncate", 10.0), ("exact", 10.8)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_zero_shot_set_comes_to_its_known_accuracy(
    count: int, rounding: str, total: float, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "msvd_qa"
    write(folder / "test_q.json", ASKED)
    write(folder / "test_a.json", ANSWERED)
    named = "questions@task.questions=msvd_qa"
    assert run("questions", named) == {"questions": 6, "videos": 3}
    rows = [
        record(row, pred=None if row.id == "q_5" else str(row.turns[0].assistant), error="cut off")
        for row in load_conversations(folder / "questions.json")
    ]
    words = [
        shards(tmp_path / "shards", rows, count),
        recorded(tmp_path / "said.jsonl", {"answer": SAID}, tries=2),
    ]
    headline = run("judge", named, *words, "judge@task.judge=recorded", f"task.rounding={rounding}", "task.tries=2")
    result = json.loads((tmp_path / "outputs" / "judge" / "msvd_qa" / "result.json").read_text())
    answer = result["aspects"]["answer"]
    assert (answer["judged"], answer["unparsed"], answer["without_answer"]) == (4, 1, 1)
    assert headline["answer"] == pytest.approx(total / 4)
    assert headline["accuracy"] == 0.5
    assert answer["score_of_all"] == pytest.approx(total / 6)
    assert answer["accuracy_of_all"]["value"] == pytest.approx(2 / 6)
    assert headline["exact"] == 1.0  # each answer stands beside its own reference
    assert result["types"]["1"]["aspects"]["answer"]["without_answer"] == 1
    shown = capsys.readouterr().out
    for words_shown in ("64.9", "3.3", "50.0", "4 of 6 judged, 1 unparsed", "1 failed, 0 without a prediction"):
        assert words_shown in shown


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_from_published_files_to_the_table_by_the_commands(processes: int, shapes: Path, tmp_path: Path) -> None:
    """The real answers of an untrained model; one video is cut off."""
    clips = sorted((shapes / "shapes" / "clips" / "test").glob("*.mp4"))[:3]
    media = tmp_path / "videos"
    media.mkdir()
    for number, clip in enumerate(clips):
        content = clip.read_bytes()
        (media / f"v_{number}.mp4").write_bytes(content[: len(content) // 4] if number == 1 else content)
    folder = tmp_path / "data" / "vcgbench"
    asked = [{"video_name": f"v_{n % 3}", "Q": "what shape is it ?", "A": "circle"} for n in range(5)]
    write(folder / "generic_qa.json", asked)
    only = ["task.questions.temporal=null", "task.questions.consistency=null"]
    where = [f"paths.data={tmp_path}/data", f"paths.outputs={tmp_path}/outputs"]
    command("prepare", "task=questions", *only, *where)
    words = ["experiment=video_chatgpt_tiny", "prepare=[]", "batch.eval=2", f"paths.run={tmp_path}/answers"]
    words += [f"request.file={folder}/questions.json", f"request.media={media}", f"paths.data={shapes}"]
    words += ["trainer.devices=2", "trainer.strategy=ddp", "batch.micro=32"] if processes == 2 else []
    command("generate", *words)
    written = sorted((tmp_path / "answers").glob("generated*.jsonl"))
    assert len(written) == processes
    said = [
        {"aspect": aspect, "id": f"generic/v_{video}/{n}", "reply": "{'score': 2.7}"}
        for aspect in ("correctness", "detail", "context")
        for video, n in ((0, 0), (0, 1), (2, 0))
    ]
    write(tmp_path / "said.jsonl", said)
    predictions = f"task.predictions=[{','.join(map(str, written))}]"
    by = ["judge@task.judge=recorded", f"task.judge.path={tmp_path}/said.jsonl"]
    shown = command("prepare", "task=judge", *only, *where, *by, predictions, f"task.media={media}")
    result = json.loads((tmp_path / "outputs" / "judge" / "vcgbench" / "result.json").read_text())
    counts = result["counts"]
    assert (counts["answered"], counts["failed"], counts["unanswered"]) == (3, 2, 0)
    assert (result["aspects"]["detail"]["judged"], result["aspects"]["detail"]["score"]["value"]) == (3, 2.0)
    assert "3 answered, 2 failed" in shown


def command(launcher: str, *words: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", f"launchers.{launcher}", *words]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
