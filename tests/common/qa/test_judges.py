"""Judges: patience with a busy server, an end to it, a key that stays where it is; recorded replies."""

import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from common.qa.endpoint import Endpoint
from common.qa.judges import Chat, JudgeError, Recorded, Reply

CANARY = "canary-" + "b7f3" * 6
QUICK: dict[str, Any] = {"model": "judge", "first_wait": 0.01, "timeout": 5.0}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def chats(count: int) -> list[Chat]:
    return [Chat("answer", str(n), 1, [{"role": "user", "content": f"question {n}"}]) for n in range(count)]


def replies(judge: Any, count: int) -> list[Reply]:
    found = dict(judge.ask(chats(count)))
    return [found[place] for place in range(count)]


def test_each_reply_goes_to_its_question_however_many_are_asked_at_once(server: Any) -> None:
    def script(number: int, body: dict[str, Any]) -> Any:
        time.sleep(0.02)
        return server.says(body["messages"][0]["content"].removeprefix("question "))

    server.script = script
    answers = replies(Endpoint(base_url=server.url, parallel=4, **QUICK), 12)
    assert answers == [Reply(str(n), "judge-2026-01") for n in range(12)]
    assert 1 < server.most_at_once <= 4
    assert server.requests[0] == {
        "model": "judge",
        "messages": [{"role": "user", "content": server.requests[0]["messages"][0]["content"]}],
        "temperature": 0.0,
        "max_tokens": 256,
    }
    assert "Authorization" not in server.headers[0]


def test_settings_of_newer_models(server: Any) -> None:
    judge = Endpoint(base_url=server.url + "/", temperature=None, limit_field="max_completion_tokens", **QUICK)
    replies(judge, 1)
    assert set(server.requests[0]) == {"model", "messages", "max_completion_tokens"}
    assert judge.identity["base_url"] == server.url


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_a_busy_server_is_asked_again(status: int, server: Any) -> None:
    server.script = lambda number, body: server.fails(status) if number < 3 else server.says("fine")
    assert replies(Endpoint(base_url=server.url, **QUICK), 1)[0].text == "fine"
    assert len(server.requests) == 3


def test_retry_after_is_obeyed_in_both_forms(server: Any) -> None:
    def script(number: int, body: dict[str, Any]) -> Any:
        if number == 1:
            return server.fails(429, Retry_After="0.3")
        if number == 2:
            when = datetime.now(UTC) + timedelta(seconds=1.5)
            return server.fails(429, Retry_After=format_datetime(when, usegmt=True))
        return server.says("fine")

    server.script = script
    start = time.monotonic()
    assert replies(Endpoint(base_url=server.url, **QUICK), 1)[0].text == "fine"
    assert time.monotonic() - start > 0.3 + 0.4  # a date has whole seconds


def test_a_server_that_asks_for_too_much_patience_ends_it(server: Any) -> None:
    server.script = lambda number, body: server.fails(429, "quota", Retry_After="3600")
    with pytest.raises(JudgeError, match=r"HTTP 429 quota; asks to wait 3600 s, more than judge\.longest_wait"):
        replies(Endpoint(base_url=server.url, **QUICK), 1)
    assert len(server.requests) == 1


def test_retries_end(server: Any) -> None:
    server.script = lambda number, body: server.fails(503, "down")
    with pytest.raises(JudgeError, match="HTTP 503 down, 4 times; the replies so far are kept"):
        replies(Endpoint(base_url=server.url, retries=3, **QUICK), 1)
    assert len(server.requests) == 4


def test_silence_and_nonsense_are_tried_again(server: Any) -> None:
    def script(number: int, body: dict[str, Any]) -> Any:
        if number == 1:
            time.sleep(0.4)
        return (200, {}, b"<html>") if number == 2 else server.says("fine")

    server.script = script
    assert replies(Endpoint(base_url=server.url, **QUICK | {"timeout": 0.2}), 1)[0].text == "fine"
    assert len(server.requests) == 3


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(JudgeError, match=r"127\.0\.0\.1:9/v1: no answer .*refused.*, 2 times"):
        replies(Endpoint(base_url="http://127.0.0.1:9/v1", retries=1, **QUICK), 1)


def test_a_refused_question_is_no_failure_of_the_others(server: Any) -> None:
    def script(number: int, body: dict[str, Any]) -> Any:
        bad = body["messages"][0]["content"] == "question 1"
        return server.fails(400, "content rule") if bad else server.says("fine")

    server.script = script
    answers = replies(Endpoint(base_url=server.url, **QUICK), 3)
    assert [each.text for each in answers] == ["fine", None, "fine"]
    assert answers[1].refusal == "HTTP 400 content rule"


def test_an_error_that_will_not_pass_stops_at_once_and_keeps_what_was_said(server: Any) -> None:
    server.script = lambda number, body: server.fails(401, "no") if number == 3 else server.says("fine")
    kept: list[Any] = []
    with pytest.raises(JudgeError, match=r"HTTP 401 no; check judge\.base_url, judge\.model and the key"):
        kept.extend(Endpoint(base_url=server.url, parallel=1, **QUICK).ask(chats(50)))
    assert len(kept) >= 2
    assert len(server.requests) == len(kept) + 1  # none was asked whose reply is lost
    assert len(server.requests) < 50


def test_nothing_is_asked_after_the_reader_has_stopped(server: Any) -> None:
    asking = Endpoint(base_url=server.url, parallel=1, **QUICK).ask(chats(200))
    next(asking)
    asking.close()
    count = len(server.requests)
    time.sleep(0.05)
    assert len(server.requests) == count < 200


def test_a_redirect_is_not_followed(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    server.script = lambda number, body: server.fails(302, Location=f"{server.url}/elsewhere")
    with pytest.raises(JudgeError, match=r"sends requests elsewhere; give that address as judge\.base_url"):
        replies(Endpoint(base_url=server.url, **QUICK), 1)
    assert len(server.requests) == 1


def test_no_key_no_start_unless_the_host_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("https://judge.example/v1", "https://127.0.0.1.example/v1", "https://10.0.0.1/v1"):
        with pytest.raises(JudgeError, match="set the environment variable OPENAI_API_KEY"):
            Endpoint(base_url=url, **QUICK)
    monkeypatch.setenv("OPENAI_API_KEY", "  \n")
    with pytest.raises(JudgeError, match="set the environment variable OPENAI_API_KEY"):
        Endpoint(base_url="https://judge.example/v1", **QUICK)
    for url in ("http://localhost:8000/v1", "http://127.0.0.2/v1", "http://[::1]:8000/v1"):
        Endpoint(base_url=url, **QUICK)


def test_the_key_goes_to_the_server_in_its_header_and_nowhere_else(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", CANARY)
    judge = Endpoint(base_url=server.url, key_variable="JUDGE_KEY", retries=0, **QUICK)
    server.script = lambda number, body: server.says(f"you are {CANARY}", model=f"m {CANARY}")
    assert replies(judge, 1)[0] == Reply("you are ***", "m ***")
    assert server.headers[0]["Authorization"] == f"Bearer {CANARY}"
    assert CANARY not in json.dumps(server.requests)
    assert CANARY not in f"{judge!r} {judge.identity}"
    for status in (400, 401, 503):
        server.script = lambda number, body, status=status: server.fails(status, f"bad key {CANARY}")
        try:
            said = str(replies(judge, 1)[0].refusal)
        except JudgeError as error:
            said = str(error)
        assert "bad key ***" in said
        assert CANARY not in said


def test_a_key_is_no_configuration_value_and_stays_off_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JudgeError, match="not the key itself") as caught:
        Endpoint(base_url="https://judge.example/v1", key_variable=CANARY, **QUICK)
    assert CANARY not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    with pytest.raises(JudgeError, match="would get the key unencrypted"):
        Endpoint(base_url="http://node7:8000/v1", **QUICK)
    Endpoint(base_url="http://node7:8000/v1", plain_http=True, **QUICK)
    for url in (f"https://user:{CANARY}@judge.example/v1", f"https://judge.example/v1?key={CANARY}", "judge.example"):
        with pytest.raises(JudgeError, match=r"judge\.base_url") as caught:
            Endpoint(base_url=url, **QUICK)
        assert CANARY not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY + "\u00e9")
    with pytest.raises(JudgeError, match="holds signs that no key has") as caught:
        Endpoint(base_url="https://judge.example/v1", **QUICK)
    assert CANARY not in str(caught.value)


def lines(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_recorded_replies_are_found_by_the_words_or_by_aspect_and_id(tmp_path: Path) -> None:
    asked = chats(3)
    path = lines(
        tmp_path / "replies.jsonl",
        {"prompt": asked[0].prompt, "aspect": "answer", "id": "other", "reply": "by words", "model": "m"},
        {"aspect": "answer", "id": 1, "reply": "by id"},
        {"aspect": "answer", "id": "2", "attempt": 1, "reply": "first"},
        {"aspect": "answer", "id": "2", "attempt": 2, "reply": "second"},
    )
    judge = Recorded(path=path)
    again = asked[2]._replace(attempt=2)
    said = [reply for _, reply in judge.ask([*asked, again])]
    assert said == [Reply("by words", "m"), Reply("by id", None), Reply("first", None), Reply("second", None)]
    changed = asked[0]._replace(messages=[{"role": "user", "content": "other words"}])
    with pytest.raises(JudgeError, match=r"no reply about answer of '0', attempt 1.*changed since"):
        list(judge.ask([changed]))


def test_recorded_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="no such file"):
        Recorded(path=str(tmp_path / "none.jsonl"))
    row = {"aspect": "answer", "id": "1", "reply": "x"}
    with pytest.raises(JudgeError, match="line 2: should hold reply, and prompt or aspect and id"):
        Recorded(path=lines(tmp_path / "a.jsonl", row, {"id": "1", "reply": "x"}))
    with pytest.raises(JudgeError, match="line 2: another reply"):
        Recorded(path=lines(tmp_path / "b.jsonl", row, {**row, "reply": "y"}))
    lines(tmp_path / "c.jsonl", row)
    lines(tmp_path / "d.jsonl", {**row, "reply": "y"})
    first, second = (Recorded(path=str(tmp_path / name)) for name in ("c.jsonl", "d.jsonl"))
    assert first.identity["digest"] != second.identity["digest"]
