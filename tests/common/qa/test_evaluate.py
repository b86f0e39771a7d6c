"""The whole evaluation: known scores, in any order, from any shards; bounded, counted, resumable, no secrets."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.config import build, check
from common.qa.benchmarks import Benchmark, BenchmarkError, vcgbench, zero_shot
from common.qa.endpoint import Endpoint
from common.qa.evaluate import evaluate
from common.qa.judges import JudgeError, Recorded
from common.qa.published import ROWS, rows_for
from common.qa.replies import TOP
from launchers.command import compose

ROOT = Path(__file__).resolve().parents[3]
CANARY = "canary-" + "9c1e" * 6
Files = dict[str, str]

# Replies by aspect and item, and what they come to when cut off as the published evaluation does.
VCG_REPLIES = {
    ("correctness", "generic/v_a/0"): "{'score': 4.8}",
    ("correctness", "generic/v_b/0"): "{''score': 3}",
    ("correctness", "generic/v_a/1"): '{"score": 2.0}',
    ("detail", "generic/v_a/0"): "{'score': 1}",
    ("detail", "generic/v_b/0"): "{'score': 1}",
    ("detail", "generic/v_a/1"): "{'score': 1.9}",
    ("context", "generic/v_a/0"): "{'score': 5}",
    ("context", "generic/v_b/0"): "{'score': 4}",
    ("context", "generic/v_a/1"): "{'score': 0}",
    ("temporal", "temporal/v_a/0"): "{'score': 2}",
    ("consistency", "consistency/v_b/0"): "{'score': 5}",
    ("consistency", "consistency/v_c/0"): "{'score': 4}",
}
TRUNCATED = {"correctness": 3.0, "detail": 1.0, "context": 3.0, "temporal": 2.0, "consistency": 4.5}
EXACT = {"correctness": 9.8 / 3, "detail": 1.3, "context": 3.0, "temporal": 2.0, "consistency": 4.5}


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recorded(path: Path, replies: dict[tuple[str, str], str]) -> Recorded:
    rows = [{"aspect": aspect, "id": name, "reply": reply} for (aspect, name), reply in replies.items()]
    return Recorded(path=str(lines(path, rows)))


def vcg_predictions(benchmark: Benchmark) -> list[dict[str, Any]]:
    rows = []
    for item in benchmark.items:
        row = {"video_name": item.video, "A": item.reference}
        if len(item.questions) == 1:
            rows.append({**row, "Q": item.questions[0], "pred": f"{item.reference} {item.id}"})
        else:
            first, second = item.questions
            rows.append({**row, "Q1": first, "Q2": second, "pred1": item.reference, "pred2": "something else"})
    return rows


def read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


def test_the_five_aspects_come_to_known_means_shuffled_and_sharded_alike(vcg_files: Files, tmp_path: Path) -> None:
    benchmark = vcgbench(**vcg_files)
    judge = recorded(tmp_path / "recorded.jsonl", VCG_REPLIES)
    rows = vcg_predictions(benchmark)
    whole = lines(tmp_path / "whole.jsonl", rows)
    headline = evaluate(questions=benchmark, predictions=[str(whole)], output=str(tmp_path / "one"), judge=judge)
    result = read(tmp_path / "one")
    assert {name: headline[name] for name in TRUNCATED} == TRUNCATED
    assert result["average"] == pytest.approx(sum(TRUNCATED.values()) / 5)
    assert result["judge"]["rounding"] == "truncate"
    assert {name: each["judged"] for name, each in result["aspects"].items()} == dict(
        zip(TRUNCATED, (3, 3, 3, 1, 2), strict=True)
    )
    random.Random(2).shuffle(rows)
    shards = [str(lines(tmp_path / f"shard{number}.jsonl", rows[number::3])) for number in range(3)]
    evaluate(questions=benchmark, predictions=shards, output=str(tmp_path / "three"), judge=judge)
    sharded = read(tmp_path / "three")
    for other in (result, sharded):
        for moment in ("first_reply", "last_reply"):
            assert other["judge"].pop(moment) is not None
    assert (len(result.pop("predictions")), len(sharded.pop("predictions"))) == (1, 3)
    assert sharded == result
    assert (tmp_path / "one" / "items.jsonl").read_text() == (tmp_path / "three" / "items.jsonl").read_text()


def test_exact_rounding_asks_nobody_again(vcg_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = vcgbench(**vcg_files)
    judge = recorded(tmp_path / "recorded.jsonl", VCG_REPLIES)
    settings: dict[str, Any] = {
        "questions": benchmark,
        "predictions": [str(lines(tmp_path / "p.jsonl", vcg_predictions(benchmark)))],
        "output": str(tmp_path / "out"),
        "judge": judge,
    }
    evaluate(**settings)
    monkeypatch.setattr(judge, "_rows", {})
    headline = evaluate(**settings, rounding="exact")
    assert {name: headline[name] for name in EXACT} == pytest.approx(EXACT)


def test_replies_of_one_evaluation_are_the_recorded_judge_of_another(vcg_files: Files, tmp_path: Path) -> None:
    benchmark = vcgbench(**vcg_files)
    rows = vcg_predictions(benchmark)
    predictions = [str(lines(tmp_path / "p.jsonl", rows))]
    judge = recorded(tmp_path / "recorded.jsonl", VCG_REPLIES)
    first = evaluate(questions=benchmark, predictions=predictions, output=str(tmp_path / "a"), judge=judge)
    replay = Recorded(path=str(tmp_path / "a" / "replies.jsonl"))
    assert evaluate(questions=benchmark, predictions=predictions, output=str(tmp_path / "b"), judge=replay) == first
    rows[0]["pred"] = "another answer"
    lines(tmp_path / "p.jsonl", rows)
    with pytest.raises(JudgeError, match="changed since"):
        evaluate(questions=benchmark, predictions=predictions, output=str(tmp_path / "c"), judge=replay)


def qa_predictions() -> list[dict[str, Any]]:
    return [
        {"id": "c_0", "question": "how many men", "answer": "two", "pred": "three men"},
        {"id": "b_0", "question": "is it raining", "answer": "no", "pred": "no"},
        {"id": "a_1", "question": "what colour is the ball", "answer": "red", "pred": "The ball is red."},
    ]


def test_zero_shot_accuracy_and_score_with_the_missing_counted(
    zero_shot_files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = zero_shot(**zero_shot_files, name="activitynet_qa")
    replies = {
        ("answer", "c_0"): "{'pred': 'no', 'score': 1.9}",
        ("answer", "b_0"): "{'pred': 'yes', 'score': 5}",
        ("answer", "a_1"): "{'pred': 'yes', 'score': 4.8}",
    }
    evaluate(
        questions=benchmark,
        predictions=[str(lines(tmp_path / "p.jsonl", qa_predictions()))],
        output=str(tmp_path / "out"),
        judge=recorded(tmp_path / "recorded.jsonl", replies),
    )
    result = read(tmp_path / "out")
    answer = result["aspects"]["answer"]
    assert answer["score"]["value"] == pytest.approx(10 / 3)
    assert answer["score_of_all"] == 10 / 4  # the lost one counts as 0
    assert answer["accuracy"]["value"] == pytest.approx(2 / 3)
    assert answer["accuracy_of_all"]["value"] == 0.5
    assert (answer["items"], answer["judged"], answer["without_answer"], answer["unparsed"]) == (4, 3, 1, 0)
    assert result["counts"]["unanswered"] == 1
    assert result["judge_free"]["exact"]["value"] == pytest.approx(1 / 3)
    assert result["judge_free"]["contains"]["value"] == pytest.approx(2 / 3)
    assert result["types"]["2"]["aspects"]["answer"]["accuracy"]["value"] == 0.5
    shown = capsys.readouterr().out
    for words in ("Video-ChatGPT", "35.2", "2.7", "GPT-3.5, not pinned", "66.7 (21-94)", "3 of 4 judged"):
        assert words in shown


def test_without_a_judge_there_are_the_other_scores(zero_shot_files: Files, tmp_path: Path) -> None:
    benchmark = zero_shot(**zero_shot_files, name="activitynet_qa")
    predictions = [str(lines(tmp_path / "p.jsonl", qa_predictions()))]
    headline = evaluate(questions=benchmark, predictions=predictions, output=str(tmp_path / "out"), judge=None)
    assert set(headline) == {"exact", "contains", "f1", "rouge_l", "answered", "items"}
    assert read(tmp_path / "out")["judge"] is None


def test_a_reply_that_cannot_be_read_ends_after_its_tries_and_is_counted(
    server: Any, zero_shot_files: Files, tmp_path: Path
) -> None:
    def script(number: int, body: dict[str, Any]) -> Any:
        if number > 6:  # whoever asks on and on would do so for ever
            return server.fails(401)
        first = body["messages"][1]["content"]
        if "three men" in first:
            return server.says("I would say it is fairly good.")
        if "Prediction: no" in first and len(body["messages"]) == 2:
            return server.says("")
        return server.says("{'pred': 'yes', 'score': 4}")

    server.script = script
    settings: dict[str, Any] = {
        "questions": zero_shot(**zero_shot_files, name="x"),
        "predictions": [str(lines(tmp_path / "p.jsonl", qa_predictions()))],
        "output": str(tmp_path / "out"),
        "judge": Endpoint(base_url=server.url, model="judge"),
        "tries": 3,
    }
    evaluate(**settings)
    assert len(server.requests) == 3 + 2 + 1  # one hopeless, one that a reminder mends
    last = max(server.requests, key=lambda body: len(body["messages"]))["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert "Reply with nothing but the dictionary" in last[-1]["content"]
    answer = read(tmp_path / "out")["aspects"]["answer"]
    assert (answer["judged"], answer["unparsed"], answer["without_answer"], answer["items"]) == (2, 1, 1, 4)
    assert answer["score"]["value"] == 4
    assert answer["score_of_all"] == 2
    rows = {row["id"]: row for row in map(json.loads, (tmp_path / "out" / "items.jsonl").read_text().splitlines())}
    assert rows["c_0"]["grades"]["answer"]["attempts"] == 3
    assert rows["b_0"]["grades"]["answer"] == {
        "score": 4.0,
        "right": True,
        "reply": "{'pred': 'yes', 'score': 4}",
        "attempts": 2,
        "refusal": None,
    }
    evaluate(**settings)  # the hopeless one is known too
    assert len(server.requests) == 6


def test_refusals_are_counted_up_to_a_limit_and_asked_again(
    server: Any, zero_shot_files: Files, tmp_path: Path
) -> None:
    def script(number: int, body: dict[str, Any]) -> Any:
        refused = "three men" in body["messages"][1]["content"]
        return server.fails(400, "content rule") if refused else server.says("{'pred': 'no', 'score': 0}")

    server.script = script
    settings: dict[str, Any] = {
        "questions": zero_shot(**zero_shot_files, name="x"),
        "predictions": [str(lines(tmp_path / "p.jsonl", qa_predictions()))],
        "output": str(tmp_path / "out"),
        "judge": Endpoint(base_url=server.url, model="judge", parallel=1),
    }
    with pytest.raises(JudgeError, match="refuses 1 of 3 questions, the last with: HTTP 400 content rule; mend"):
        evaluate(**settings)
    evaluate(**settings, max_refused=0.5)
    answer = read(tmp_path / "out")["aspects"]["answer"]
    assert (answer["judged"], answer["refused"], answer["unparsed"]) == (2, 1, 0)
    server.script = lambda number, body: server.says("{'pred': 'yes', 'score': 5}")
    evaluate(**settings)
    assert read(tmp_path / "out")["aspects"]["answer"]["judged"] == 3


def test_a_judge_that_refuses_everything_is_soon_left_alone(server: Any, tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Any:
        time.sleep(0.002)
        return server.fails(400, "no such setting")

    server.script = script
    files, predictions = many(tmp_path, 300)
    settings: dict[str, Any] = {"questions": zero_shot(**files, name="x"), "predictions": [str(predictions)]}
    judge = Endpoint(base_url=server.url, model="judge", parallel=2, retries=0)
    with pytest.raises(JudgeError, match="refuses 4 of 300 questions") as caught:
        evaluate(**settings, output=str(tmp_path / "out"), judge=judge)
    assert caught.tb is not None  # and keeps the frames alive, as an error on its way out does
    count = len(server.requests)
    assert count < 100
    time.sleep(0.1)
    assert len(server.requests) == count


def many(tmp_path: Path, count: int) -> tuple[Files, Path]:
    """A zero-shot set of `count` questions with predictions."""
    asked = [{"video_name": "v", "question": f"question {n}", "question_id": n} for n in range(count)]
    answered = [{"answer": "yes", "question_id": n} for n in range(count)]
    (tmp_path / "q.json").write_text(json.dumps(asked))
    (tmp_path / "a.json").write_text(json.dumps(answered))
    rows = [{"id": n, "pred": f"prediction {n}"} for n in range(count)]
    files = {"questions": str(tmp_path / "q.json"), "answers": str(tmp_path / "a.json")}
    return files, lines(tmp_path / "p.jsonl", rows)


KILLED = """
import sys
from common.qa.benchmarks import zero_shot
from common.qa.endpoint import Endpoint
from common.qa.evaluate import evaluate
questions, answers, predictions, output, url = sys.argv[1:]
benchmark = zero_shot(questions=questions, answers=answers, name="x")
evaluate(questions=benchmark, predictions=[predictions], output=output, judge=Endpoint(base_url=url, model="judge"))
"""


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.01)


def test_a_killed_evaluation_goes_on_and_asks_nothing_twice_that_was_answered(server: Any, tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Any:
        time.sleep(0.02)
        return server.says("{'pred': 'yes', 'score': 4}")

    server.script = script
    files, predictions = many(tmp_path, 200)
    output = tmp_path / "out"
    arguments = [files["questions"], files["answers"], str(predictions), str(output), server.url]
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, env=environment)
    replies = output / "replies.jsonl"
    until(lambda: len(server.requests) >= 60, process)
    process.kill()
    process.wait()
    time.sleep(0.1)  # requests on their way arrive
    kept = replies.read_bytes().count(b"\n")
    before = len(server.requests)
    assert before - 16 <= kept <= before < 200  # 8 at a time: each reply is kept as it comes in
    with open(replies, "a") as file:
        file.write('{"judge": "half a li')
    judge = Endpoint(base_url=server.url, model="judge")
    evaluate(questions=zero_shot(**files, name="x"), predictions=[str(predictions)], output=str(output), judge=judge)
    assert len(server.requests) - before == 200 - kept
    answer = read(output)["aspects"]["answer"]
    assert (answer["judged"], answer["accuracy"]["value"]) == (200, 1.0)


def test_another_judge_or_wording_is_asked_anew(server: Any, tmp_path: Path) -> None:
    server.script = lambda number, body: server.says("{'pred': 'yes', 'score': 4}")
    files, predictions = many(tmp_path, 3)
    settings: dict[str, Any] = {
        "questions": zero_shot(**files, name="x"),
        "predictions": [str(predictions)],
        "output": str(tmp_path / "out"),
    }
    evaluate(**settings, judge=Endpoint(base_url=server.url, model="judge"))
    evaluate(**settings, judge=Endpoint(base_url=server.url, model="judge", parallel=2))
    assert len(server.requests) == 3
    first = read(tmp_path / "out")["judge"]
    evaluate(**settings, judge=Endpoint(base_url=server.url, model="other"))
    assert len(server.requests) == 6
    texts = {"system": "Grade.", "user": "$question $reference $prediction"}
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"version": "short", "prompts": {"answer": texts}}))
    evaluate(**settings, judge=Endpoint(base_url=server.url, model="judge"), prompts=str(prompts))
    assert len(server.requests) == 9
    second = read(tmp_path / "out")["judge"]
    assert first["prompts"]["digest"] != second["prompts"]["digest"]
    assert second["prompts"]["version"] == "short"
    assert second["models"] == {"judge-2026-01": 3}


def test_answers_that_read_alike_are_asked_about_once(server: Any, tmp_path: Path) -> None:
    server.script = lambda number, body: server.says("{'pred': 'yes', 'score': 4}")
    asked = [{"video_name": f"v{n}", "question": "what is done", "question_id": n} for n in range(5)]
    (tmp_path / "q.json").write_text(json.dumps(asked))
    (tmp_path / "a.json").write_text(json.dumps([{"answer": "talk", "question_id": n} for n in range(5)]))
    predictions = lines(tmp_path / "p.jsonl", [{"id": n, "pred": "they talk"} for n in range(5)])
    benchmark = zero_shot(questions=str(tmp_path / "q.json"), answers=str(tmp_path / "a.json"), name="x")
    judge = Endpoint(base_url=server.url, model="judge")
    evaluate(questions=benchmark, predictions=[str(predictions)], output=str(tmp_path / "out"), judge=judge)
    assert len(server.requests) == 1
    assert read(tmp_path / "out")["aspects"]["answer"]["judged"] == 5


def test_the_key_is_in_no_file_and_in_no_output(
    server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    caplog.set_level("DEBUG")
    server.script = lambda number, body: server.says(f"{{'pred': 'yes', 'score': 4}} {CANARY}", model=CANARY)
    files, predictions = many(tmp_path, 3)
    judge = Endpoint(base_url=server.url, model="judge")
    output = tmp_path / "out"
    evaluate(questions=zero_shot(**files, name="x"), predictions=[str(predictions)], output=str(output), judge=judge)
    assert all(headers["Authorization"] == f"Bearer {CANARY}" for headers in server.headers)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"result.json", "items.jsonl", "replies.jsonl"} <= {path.name for path in written}
    for path in written:
        assert CANARY.encode() not in path.read_bytes(), path
    shown = capfd.readouterr()
    assert CANARY not in shown.out + shown.err + caplog.text
    assert "***" in (output / "replies.jsonl").read_text()


def test_missing_videos_are_counted_and_answers_about_them_refused(zero_shot_files: Files, tmp_path: Path) -> None:
    media = tmp_path / "videos"
    media.mkdir()
    (media / "v_a.mp4").touch()
    (media / "v_b.avi").touch()
    settings: dict[str, Any] = {
        "questions": zero_shot(**zero_shot_files, name="x"),
        "output": str(tmp_path / "out"),
        "judge": None,
        "media": str(media),
    }
    rows = qa_predictions()
    with pytest.raises(BenchmarkError, match=r"1 predictions are about videos that are not in .*: c_0; what did the"):
        evaluate(**settings, predictions=[str(lines(tmp_path / "p.jsonl", rows))])
    rows[0] = {"id": "c_0", "pred": None, "error": "videos/v_c: not there"}
    evaluate(**settings, predictions=[str(lines(tmp_path / "p.jsonl", rows))])
    result = read(tmp_path / "out")
    assert result["missing_videos"] == ["v_c"]
    assert result["counts"]["failures"] == {"videos/v_c: not there": 1}


def test_two_evaluations_do_not_write_into_one_folder(server: Any, tmp_path: Path) -> None:
    files, predictions = many(tmp_path, 1)
    settings: dict[str, Any] = {
        "questions": zero_shot(**files, name="x"),
        "predictions": [str(predictions)],
        "output": str(tmp_path / "out"),
        "judge": Endpoint(base_url=server.url, model="judge"),
    }
    problems: list[str] = []

    def script(number: int, body: dict[str, Any]) -> Any:
        try:
            evaluate(**settings)
        except ValueError as error:
            problems.append(str(error))
        return server.says("{'pred': 'yes', 'score': 4}")

    server.script = script
    evaluate(**settings)
    assert len(problems) == 1
    assert "another evaluation writes here" in problems[0]


def test_published_rows_are_on_the_scale_and_agree_with_their_average() -> None:
    assert len(rows_for("vcgbench")) == 16
    assert dict(rows_for("activitynet_qa"))["Video-ChatGPT"] == [35.2, 2.7]
    assert "BT-Adapter" not in dict(rows_for("msvd_qa"))
    assert rows_for("shapes") == []
    for row in ROWS:
        assert all(0 <= score <= TOP for score in (*row.aspects, *(each for each in row.score if each is not None)))
        assert all(each is None or 5 < each < 100 for each in row.accuracy)
    averages = {row.model: (sum(row.aspects) / 5, row.average) for row in ROWS if row.average is not None}
    apart = {model for model, (ours, printed) in averages.items() if abs(ours - printed) > 0.03}
    assert len(averages) == 16
    assert apart == {"PLLaVA 7B", "PLLaVA 34B"}  # printed like this


def test_the_task_runs_by_its_configuration(vcg_files: Files, tmp_path: Path) -> None:
    benchmark = vcgbench(**vcg_files)
    recorded(tmp_path / "recorded.jsonl", VCG_REPLIES)
    lines(tmp_path / "p.jsonl", vcg_predictions(benchmark))
    cfg = compose(
        "paths.run=run",
        "task=judge",
        "judge@task.judge=recorded",
        f"task.judge.path={tmp_path}/recorded.jsonl",
        *(f"task.questions.{name}={path}" for name, path in vcg_files.items()),
        f"task.predictions=[{tmp_path}/p.jsonl]",
        f"paths.outputs={tmp_path}/outputs",
        config_name="prepare",
    )
    check(cfg)
    assert build(cfg.task)["correctness"] == 3.0
    assert read(tmp_path / "outputs" / "judge" / "vcgbench")["benchmark"] == "vcgbench"


@pytest.mark.parametrize("judge", ["endpoint", "local", "recorded"])
@pytest.mark.parametrize("questions", ["vcgbench", "activitynet_qa", "msvd_qa", "msrvtt_qa", "tgif_qa", "shapes"])
def test_every_judge_goes_with_every_benchmark(judge: str, questions: str) -> None:
    words = [f"judge@task.judge={judge}", f"questions@task.questions={questions}", "paths.run=run"]
    check(compose("task=judge", *words, config_name="prepare"))
    check(compose("task=questions", *words[1:], config_name="prepare"))
