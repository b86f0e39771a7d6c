"""Every way in which people write video conversations becomes the same form in memory, or an error that names it."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from common.data.check import read_all
from common.data.conversations import load_conversations
from common.data.forms import FORMS, Conversation, DataError, Turn, convert

GUIDE: dict[str, Any] = {
    "conversation": [
        {"role": "user", "content": [{"type": "text", "text": "What?"}, *({"type": "image"} for _ in range(5))]},
        {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
    ],
    "video_url": "https://example.org/video.mp4",
    "num_frames": 5,
}


def chat(*said: str, **others: Any) -> dict[str, Any]:
    speakers = ("human", "gpt")
    return {"conversations": [{"from": speakers[n % 2], "value": each} for n, each in enumerate(said)], **others}


def messages(*said: Any, **others: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": each} for n, each in enumerate(said)], **others}


def parts(*listed: dict[str, Any], **others: Any) -> dict[str, Any]:
    return messages(list(listed), "A dog.", **others)


def one(row: dict[str, Any]) -> Conversation:
    return convert(row, 0, "file.json row 0")


SAME = [  # one conversation, in the words of each program
    {"q": "What?", "a": "A dog.", "video_id": "a.mp4"},
    chat("What?\n<video>", "A dog.", video="a.mp4"),
    chat("What?\n<video>", "A dog.", video=["a.mp4"]),
    chat("What?\n<video>", "A dog.", videos=["a.mp4"]),
    chat("What?\n<video>", "A dog.", video="a.mp4.pkl"),
    messages("What?\n<video>", "A dog.", videos=["a.mp4"]),
    messages("What?\n<video>", "A dog.", videos=["file://a.mp4"], images=[], audios=None),
    {"conversations": messages("What?\n<video>", "A dog.")["messages"], "videos": ["a.mp4"]},
    {"messages": chat("What?\n<video>", "A dog.")["conversations"], "videos": ["a.mp4"]},
    parts({"type": "text", "text": "What?"}, {"type": "video", "video": "a.mp4"}),
    parts({"type": "text", "text": "What?"}, {"type": "video", "path": "a.mp4"}),
    parts({"type": "text", "text": "What?"}, {"type": "video", "url": "a.mp4"}),
    parts({"type": "text", "text": "What?"}, {"type": "video"}, videos=["a.mp4"]),
    parts({"type": "text", "text": "What?"}, {"type": "video_url", "video_url": {"url": "a.mp4"}}),
]


@pytest.mark.parametrize("number", range(len(SAME)))
def test_one_conversation_in_every_form(number: int, tmp_path: Path) -> None:
    row = SAME[number]
    expected = ("a.mp4", (Turn("What?\n<video>", "A dog."),), None, None)
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("rows.json", "rows.jsonl"):
        for read in (load_conversations(tmp_path / name), read_all(tmp_path / name)):
            (found,) = read
            assert isinstance(found, Conversation)
            assert (found.video, found.turns, found.system, found.num_frames) == expected
            assert found.where == f"{tmp_path / name} row 0"


def test_the_parity_of_video_instruct_is_that_of_the_row() -> None:
    row = {"q": "What?", "a": "A dog.", "video_id": "v"}
    users = [convert(row, number, "x").turns[0].user for number in range(3)]
    assert users == ["What?\n<video>", "<video>\nWhat?", "What?\n<video>"]


# Frames


def test_frames_of_a_video_are_a_list_inside_the_list() -> None:
    row = messages("<video>What?", "A dog.", videos=[["f/1.jpg", "f/2.jpg", "f/3.jpg"]])
    assert one(row).video == ("f/1.jpg", "f/2.jpg", "f/3.jpg")
    assert one(messages("<video>What?", "A dog.", videos=[["f/1.jpg"]])).video == "f/1.jpg"
    row = parts({"type": "video", "video": ["1.jpg", "2.jpg"]}, {"type": "text", "text": "What?"})
    assert one(row).video == ("1.jpg", "2.jpg")


def test_images_that_stand_together_are_the_frames_of_a_video() -> None:
    frames = [{"type": "image", "path": "1.jpg"}, {"type": "image_url", "image_url": {"url": "2.jpg"}}]
    row = one(parts(*frames, {"type": "text", "text": "What?"}))
    assert row.video == ("1.jpg", "2.jpg")
    assert row.turns == (Turn("<video>\nWhat?", "A dog."),)
    assert one(parts(frames[0], {"type": "text", "text": "What?"})).video == "1.jpg"


def test_frames_by_number() -> None:
    row = one(GUIDE)
    assert (row.video, row.num_frames) == ("https://example.org/video.mp4", 5)
    assert row.turns == (Turn("What?\n<video>", "A dog."),)
    assert one({key: value for key, value in GUIDE.items() if key != "num_frames"}).num_frames == 5
    assert one(messages("<video>What?", "A dog.", videos=["a.mp4"], num_frames=8)).num_frames == 8


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GUIDE | {"num_frames": 4}, "num_frames: is 4, the conversation has 5 images"),
        (GUIDE | {"num_frames": 0}, "num_frames: is 0, the conversation has 5 images"),
        (GUIDE | {"num_frames": "5"}, "num_frames: should be int, is str"),
        (GUIDE | {"video_url": None}, "5 images without a file are frames of one video, the row names 0; name it in"),
        (messages("<video>?", "A.", videos=["a.mp4"], num_frames=0), "num_frames: is 0; at least one"),
        (messages("<video>?", "A.", videos=[["1.jpg", "2.jpg"]], num_frames=3), "is 3, the row lists 2 frames"),
        (
            parts(
                {"type": "image", "path": "1.jpg"}, {"type": "text", "text": "?"}, {"type": "image", "path": "2.jpg"}
            ),
            "content: images stand in 2 places; the frames of a video stand together",
        ),
        (parts({"type": "image", "path": "1.jpg"}, {"type": "image"}, videos=["a.mp4"]), "name all or none"),
        (parts({"type": "image", "path": ["1.jpg", "2.jpg"]}), "an image part names several files"),
        (messages("<video>?", "A.", videos=["1.jpg", "2.jpg"]), "2 videos; .*split the row .*a list inside the list"),
        (messages("<video>?", "A.", videos=[[]]), "videos: is not a path, an address or a list"),
    ],
)
def test_frames_that_do_not_fit(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"file\.json row 17, .*{message}"):
        convert(row, 17, "file.json row 17")


# VideoChat2


def test_questions_and_answers_of_videochat2() -> None:
    rows = [{"i": "Watch.", "q": "What?", "a": "A dog."}, {"i": "Watch.", "q": "And then?", "a": "It runs."}]
    row = one({"video": "a.mp4", "QA": rows})
    assert (row.video, row.system) == ("a.mp4", "Watch.")
    assert row.turns == (Turn("<video>\nWhat?", "A dog."), Turn("And then?", "It runs."))
    plain = one({"video": "a.mp4", "QA": [{"q": "What?", "a": "A dog."}]})
    assert (plain.system, plain.turns) == (None, (Turn("<video>\nWhat?", "A dog."),))


def test_an_instruction_asks_where_there_is_no_question_and_none_is_lost() -> None:
    caption = one({"video": "a.mp4", "QA": [{"i": "Describe it.", "q": "", "a": "A dog."}]})
    assert (caption.system, caption.turns) == (None, (Turn("<video>\nDescribe it.", "A dog."),))
    rows = [{"i": "Watch.", "q": "What?", "a": "A dog."}, {"i": "Listen.", "q": "And then?", "a": "It barks."}]
    several = one({"video": "a.mp4", "QA": rows})
    assert [turn.user for turn in several.turns] == ["<video>\nWatch.\nWhat?", "Listen.\nAnd then?"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"QA": [{"q": "What?"}]}, "a: should be text, is missing"),
        ({"QA": {"q": "What?", "a": "A dog."}}, "QA: is not a list of objects with q and a"),
        ({"QA": []}, "turns: there is none"),
        ({"video": None}, "1 markers <video> in the questions for 0 videos"),
        ({"start": 3.5}, "start: asks for a part of the video; cut it"),
        ({"video": None, "image": "a.jpg"}, "image: is read only as a video"),
    ],
)
def test_videochat2_rows_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    row = {"video": "a.mp4", "QA": [{"i": "", "q": "What?", "a": "A dog."}]} | change
    with pytest.raises(DataError, match=rf"file\.json row 17, .*{message}"):
        convert(row, 17, "file.json row 17")


# What is not read


@pytest.mark.parametrize(
    "video",
    [
        "data:video/mp4;base64,AAAAIGZ0eXA=",
        base64.b64encode(bytes(range(256)) * 4).decode(),
        ["1.jpg", "data:image/jpeg;base64,/9j/4AAQ"],
    ],
)
def test_media_inside_the_row_is_refused_without_repeating_it(video: Any) -> None:
    with pytest.raises(
        DataError, match=r"row 17, videos: holds the media itself \(base64\); write it to a file"
    ) as error:
        convert(messages("<video>What?", "A dog.", videos=[video]), 17, "file.json row 17")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "<video>What?", "chosen": "A dog.", "rejected": "A cat.", "video": "a.mp4"},
        chat("<video>What?", videos=["a.mp4"], chosen={"from": "gpt", "value": "A dog."}, rejected={"from": "gpt"}),
        messages("<video>What?", "A dog.", videos=["a.mp4"], rejected_response="A cat."),
    ],
)
def test_preferences_are_refused_with_what_to_do(row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"row 17, rejected.*preferences are not trained on here; .*chosen as messages"):
        convert(row, 17, "file.json row 17")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_several_videos_are_refused_in_every_form_that_can_name_them(form: Any) -> None:
    said = {
        "conversations": chat("<video><video>What?", "A dog.")["conversations"],
        "messages": messages("<video><video>What?", "A dog.")["messages"],
        "conversation": messages("<video><video>What?", "A dog.")["messages"],
        "QA": [{"q": "What?", "a": "A dog."}],
    }
    row = {key: said[key] for key in form.keys if key in said}
    if not row:
        assert form.keys == {"q", "a", "video_id"}  # names one, always
        return
    with pytest.raises(DataError, match=r"row 17, videos: 2 videos; a conversation is about one, split the row"):
        convert(row | {"videos": ["a.mp4", "b.mp4"]}, 17, "file.json row 17")


def test_parts_of_two_videos_and_videos_named_twice() -> None:
    with pytest.raises(DataError, match="row 17, videos: 2 videos"):
        convert(parts({"type": "video", "path": "a.mp4"}, {"type": "video", "path": "b.mp4"}), 17, "f.json row 17")
    with pytest.raises(DataError, match="row 17, videos: videos and video are both there; leave one"):
        convert(chat("<video>?", "A.", video="a.mp4", videos=["b.mp4"]), 17, "f.json row 17")


def test_text_alone_is_a_conversation_in_every_form() -> None:
    rows = [chat("Hi.", "Hello."), messages("Hi.", "Hello."), {"conversation": messages("Hi.", "Hello.")["messages"]}]
    for row in [*rows, messages([{"type": "text", "text": "Hi."}], "Hello.", videos=[], video=None)]:
        found = one(row)
        assert (found.video, found.num_frames, found.turns) == (None, None, (Turn("Hi.", "Hello."),))
