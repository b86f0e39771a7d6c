"""Requests: what is asked, what contradicts itself, how an answer is written down."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from common.chat.request import Request, question, record
from common.chat.terminal import converse
from common.data.conversations import Conversation, Turn
from common.video.decode import VideoReadError

ROW = Conversation(id="7", video="a.mp4", turns=(Turn("<video>\nWhat?", "a cat"),), where="rows.json row 0")


def test_one_question_about_one_video() -> None:
    (row,) = Request(video="clip.mp4", prompt="What?").conversations([])
    assert (row.video, row.turns) == ("clip.mp4", (Turn("<video>What?", None),))


def test_a_file_of_questions_is_answered_whole(tmp_path: Path) -> None:
    file = tmp_path / "asked.json"
    rows = [{"messages": [{"role": "user", "content": f"<video>{n}?"}], "videos": ["a.mp4"]} for n in range(9)]
    file.write_text(json.dumps(rows))
    assert len(Request(file=str(file), count=2).conversations([ROW])) == 9


def test_rows_of_the_annotations_are_counted() -> None:
    assert Request(count=2).conversations([ROW] * 5) == [ROW] * 2
    assert Request(count=None).conversations([ROW] * 5) == [ROW] * 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"video": "a.mp4", "file": "b.json"}, "give one"),
        ({"prompt": "What?"}, "give the video too"),
    ],
)
def test_contradictions_are_refused(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Request(**wrong)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_settings_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"request\.temperature"):
        Request(**wrong).decoding(4)


def test_an_empty_question_is_refused() -> None:
    with pytest.raises(ValueError, match=r"request\.prompt"):
        question("a.mp4", [Turn(" ", None)])


def test_an_answer_is_written_in_the_published_names() -> None:
    line = {"id": "7", "video": "a.mp4", "question": "What?", "answer": "a cat", "pred": "a dog"}
    assert record(ROW, pred="a dog") == line
    assert record(ROW, pred=None, error="cut off") == line | {"pred": None, "error": "cut off"}


# A talk


def talk(lines: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[Turn], list[tuple[str, int]]]:
    asked: list[tuple[str, int]] = []

    def reply(video: str, turns: Sequence[Turn]) -> str:
        if video == "broken.mp4":
            raise VideoReadError(video, "cut off")
        asked.append((video, len(turns)))
        return f"answer {len(asked)}"

    waiting = iter(lines)

    def read(*_: object) -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    out = io.StringIO()
    turns = converse(reply, video="a.mp4", console=Console(file=out, width=200))
    return out.getvalue(), turns, asked


def test_a_talk_grows_until_it_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    out, turns, asked = talk(["one?", "two?", "/clear", "three?", "/video b.mp4", "four?"], monkeypatch)
    assert asked == [("a.mp4", 1), ("a.mp4", 2), ("a.mp4", 1), ("b.mp4", 1)]
    assert turns == [Turn("four?", "answer 4")]
    assert "answer 2" in out


def test_a_broken_video_ends_the_question_and_not_the_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    out, turns, _ = talk(["/video broken.mp4", "one?", "/video a.mp4", "two?", "/quit", "three?"], monkeypatch)
    assert "cut off" in out
    assert turns == [Turn("two?", "answer 1")]
