import json
import logging
from pathlib import Path

import pytest

from common.data.conversations import DataError, Turn, load_conversations, resolve_media, resolve_source

Json = dict[str, object]


def write(folder: Path, rows: object, name: str = "rows.json") -> Path:
    path = folder / name
    lines = "\n".join(json.dumps(row) for row in rows) if name.endswith("l") else json.dumps(rows)  # type: ignore[attr-defined]
    path.write_text(lines)
    return path


def chat(*entries: str, **others: object) -> Json:
    speakers = ("human", "gpt")
    listed = [{"from": speakers[place % 2], "value": text} for place, text in enumerate(entries)]
    return {"conversations": listed, **others}


def messages(*entries: object, **others: object) -> Json:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(entries)], **others}


def test_training_file_of_video_chatgpt(tmp_path: Path) -> None:
    path = write(tmp_path, [chat("What?\n<video>", "A dog.", "And then?", "It runs.", id="v_1", video="v_1.pkl")])
    (row,) = load_conversations(path)
    assert (row.id, row.video) == ("v_1", "v_1")
    assert row.turns == (Turn("What?\n<video>", "A dog."), Turn("And then?", "It runs."))
    assert row.where == f"{path} row 0"
    assert (row.type, row.options, row.novel, row.system) == (None, None, False, None)


def test_messages_with_videos_and_what_the_built_in_data_adds(tmp_path: Path) -> None:
    extra = {"id": "t1", "videos": ["clips/1.mp4"], "type": "colour", "options": 6, "novel": True}
    (row,) = load_conversations(write(tmp_path, [messages("<video>What?", "red", **extra)]))
    assert (row.id, row.video, row.type, row.options, row.novel) == ("t1", "clips/1.mp4", "colour", 6, True)
    assert row.turns == (Turn("<video>What?", "red"),)


def test_messages_of_parts(tmp_path: Path) -> None:
    user = [{"type": "video", "path": "a.mp4"}, {"type": "text", "text": "What?"}]
    (row,) = load_conversations(write(tmp_path, [messages(user, [{"type": "text", "text": "A dog."}])]))
    assert row.video == "a.mp4"
    assert row.turns == (Turn("<video>\nWhat?", "A dog."),)


def test_video_instruct_places_the_video_by_the_parity_of_the_row(tmp_path: Path) -> None:
    rows = [{"q": f"q{number}", "a": "a", "video_id": "v_x"} for number in range(4)]
    users = [row.turns[0].user for row in load_conversations(write(tmp_path, rows))]
    assert users == ["q0\n<video>", "<video>\nq1", "q2\n<video>", "<video>\nq3"]
    assert [row.id for row in load_conversations(write(tmp_path, rows))] == [
        "v_x/0",
        "v_x/1",
        "v_x/2",
        "v_x/3",
    ]


def test_lines_and_lists_give_the_same(tmp_path: Path) -> None:
    rows = [
        chat("<video>What?", "A dog.", video="1.mp4"),
        messages("<video>What?", "A cat.", videos=["2.mp4"]),
    ]
    listed = load_conversations(write(tmp_path, rows))
    lines = load_conversations(write(tmp_path, rows, "rows.jsonl"))
    assert [(row.video, row.turns) for row in listed] == [(row.video, row.turns) for row in lines]


def test_instruction_from_a_message_or_a_key(tmp_path: Path) -> None:
    told = {"conversations": [{"from": "system", "value": "Be brief."}, *chat("Hi.", "Hello.")["conversations"]]}  # type: ignore[misc]
    rows = [told, chat("Hi.", "Hello.", system_prompt="Be kind."), chat("Hi.", "Hello.")]
    assert [row.system for row in load_conversations(write(tmp_path, rows))] == [
        "Be brief.",
        "Be kind.",
        None,
    ]


def test_last_question_may_be_open_and_text_alone_is_a_conversation(tmp_path: Path) -> None:
    (row,) = load_conversations(write(tmp_path, [chat("Hi.", "Hello.", "And?")]))
    assert row.video is None
    assert row.turns == (Turn("Hi.", "Hello."), Turn("And?", None))


def test_stray_line_is_taken_off_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"q": "q", "a": "A dog.\nQA_GT_caption_based_noisy", "video_id": "v"},
        {"q": "q", "a": "A cat.", "video_id": "v"},
    ]
    path = write(tmp_path, rows)
    with caplog.at_level(logging.INFO):
        assert [row.turns[0].assistant for row in load_conversations(path)] == ["A dog.", "A cat."]
    assert "1 of 2 rows" in caplog.text
    assert load_conversations(path, strip_noise=False)[0].turns[0].assistant == rows[0]["a"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            chat("What?", "A dog.", video="1.mp4"),
            r"0 markers <video> in the questions for 1 videos; write one",
        ),
        (chat("<video>What?", "A dog."), r"1 markers <video> in the questions for 0 videos"),
        (
            chat("<video><video>What?", "A dog.", video="1.mp4"),
            r"2 markers <video> in the questions for 1 videos",
        ),
        (messages("<video><video>?", "A.", videos=["1.mp4", "2.mp4"]), r"2 videos; .*split the row"),
        (messages("<video>?", "see <video>", videos=["1.mp4"]), r"an answer contains <video>"),
        (messages("<video>?", "A dog.", videos=[["f1.jpg", 2]]), r"videos: is not a path"),
        (messages("<video>?", "A dog.", videos=[{"path": "f1.jpg"}]), r"videos: is not a path"),
        (messages("<video>?", 3, videos=["1.mp4"]), r"content: should be text, is int"),
        (messages("Hi.", [{"type": "audio"}]), r"content: holds a part of type 'audio'"),
        ({"messages": "Hi."}, r"messages: is not a list"),
        ({"conversations": [{"from": "human"}]}, r"value: should be text, is missing"),
        ({"conversations": []}, r"turns: there is none"),
        (
            {"conversations": [{"from": "gpt", "value": "Hi."}]},
            r"entry 0: is by 'gpt', a question belongs there",
        ),
        (messages("<video>?", " ", videos=["1.mp4"]), r"answer: is empty"),
        (chat("What?", "A dog.", image="1.jpg"), r"image: is read only as a video: name the file in videos"),
        (chat("Hi.", "Hello.", options="six"), r"options: should be int, is str"),
        ({"q": "q <video>", "a": "a", "video_id": "v"}, r"2 markers"),
        ({"q": "q", "a": 1, "video_id": "v"}, r"a: should be text, is int"),
        ({"q": "q", "a": "QA_GT_caption_based_noisy", "video_id": "v"}, r"nothing but QA_GT"),
        ({"q": "q", "video_id": "v"}, r"keys: \['q', 'video_id'\] lack a of VideoInstruct; mend the row"),
        (
            {"prompt": "a", "chosen": "b"},
            r"\['chosen', 'prompt'\] fit none of the forms .*VideoInstruct: a, q, video_id",
        ),
        ("text", r"row: is str"),
    ],
)
def test_rows_that_are_refused_by_name(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path, [chat("Hi.", "Hello."), row])
    with pytest.raises(DataError, match=rf"rows\.json row 1, .*{message}"):
        load_conversations(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", "{", "not JSON"),
        ("rows.json", '{"a": 1}', "a list of rows"),
        ("rows.json", None, "not there"),
        ("rows.json", "[]", "no rows"),
        ("rows.jsonl", "", "no rows"),
    ],
)
def test_files_that_are_refused_by_name(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=rf"{name}, file: .*{message}"):
        load_conversations(path)


def test_the_bad_row_among_many_is_named(tmp_path: Path) -> None:
    rows = [{"q": f"q{number}", "a": "a", "video_id": "v"} for number in range(30)]
    del rows[17]["a"]
    with pytest.raises(DataError, match=r"rows\.json row 17, keys: .*lack a of VideoInstruct"):
        load_conversations(write(tmp_path, rows))


def test_line_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "q", "a": "a", "video_id": "v"}\nnothing\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl line 2"):
        load_conversations(tmp_path / "rows.jsonl")


def test_video_is_found_with_or_without_its_extension(tmp_path: Path) -> None:
    (tmp_path / "v_1.x.mp4").touch()
    rows = [{"q": "q", "a": "a", "video_id": "v_1.x"}, chat("<video>?", "A.", video="v_1.x.mp4")]
    found = [resolve_media(tmp_path, row) for row in load_conversations(write(tmp_path, rows))]
    assert found == [tmp_path / "v_1.x.mp4"] * 2


def test_video_that_is_not_there_or_there_twice(tmp_path: Path) -> None:
    rows = [{"q": "q", "a": "a", "video_id": "v_1"}, chat("Hi.", "Hello.")]
    video, text = load_conversations(write(tmp_path, rows))
    with pytest.raises(DataError, match=r"row 0, video: .*v_1 is not there"):
        resolve_media(tmp_path, video)
    (tmp_path / "v_1.mp4").touch()
    (tmp_path / "v_1.mkv").touch()
    with pytest.raises(DataError, match=r"may be v_1\.mp4, v_1\.mkv; write the extension"):
        resolve_media(tmp_path, video)
    with pytest.raises(DataError, match="row 1, video: the conversation names none"):
        resolve_media(tmp_path, text)


def test_frames_are_found_one_by_one(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).touch()
    (row,) = load_conversations(write(tmp_path, [messages("<video>?", "A.", videos=[["1.png", "2.png"]])]))
    assert resolve_source(tmp_path, row) == (tmp_path / "1.png", tmp_path / "2.png")
    with pytest.raises(DataError, match=r"row 0, video: is a list of 2 frames, .*put them into a folder"):
        resolve_media(tmp_path, row)
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match=r"row 0, video: .*2\.png is not there"):
        resolve_source(tmp_path, row)


def test_an_address_is_kept_and_its_remedy_named(tmp_path: Path) -> None:
    address = "https://example.org/a%20b.mp4"
    rows = [messages("<video>?", "A.", videos=[address]), messages("<video>?", "A.", videos=[["1.png", address]])]
    loaded = load_conversations(write(tmp_path, rows))
    assert loaded[0].video == address
    (tmp_path / "1.png").touch()
    for number, row in enumerate(loaded):
        with pytest.raises(DataError, match=rf"row {number}, video: https.* is an address; .*task=fetch_videos"):
            resolve_source(tmp_path, row)


def test_real_files(media: Path) -> None:
    rows = load_conversations(media / "conversations" / "messages.json")
    assert [row.video for row in rows] == ["1.mp4", "2.avi", "3.mp4"]
    assert all(resolve_media(media / "conversations", row).is_file() for row in rows)
    (instruct,) = load_conversations(media / "activitynet" / "video_instruct.json")
    assert instruct.turns[0].user == "What is the main activity happening in the video?\n<video>"
    assert resolve_media(media / "activitynet", instruct).name == "v_rBMQFpHspmo.mp4"
