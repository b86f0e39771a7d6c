"""Requests: which frames of a video are the history, files of instructions, and what cannot be read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.types import Pick
from common.video.clip import VideoReadError
from common.video.write import write_h264
from projects.pix2pix_video.frames import EditFrames
from projects.pix2pix_video.requests import Asked, EditRequests, RequestBatch, Unreadable
from tests.projects.pix2pix_video.small_set import HISTORY, SIZE, make_set


def grey(number: int) -> Any:
    return np.full((SIZE, SIZE, 3), 10 * number, dtype=np.uint8)


def write_frames(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(grey(number)).save(folder / f"{number}.png")
    return folder


def rows(request: dict[str, Any], **changes: Any) -> EditRequests:
    settings = {"folder": "none", "split": "test", "size": SIZE, "crop": "squash", "history": 3}
    return EditRequests(request=request, **{**settings, **changes})


def values(history: torch.Tensor) -> list[int]:
    """Number of each frame."""
    return [round(float(frame.float().mean()) / 10) for frame in history]


def first(data: EditRequests) -> Asked:
    row = data[Pick(0, 0, 1.0)]
    assert isinstance(row, Asked)
    return row


def test_the_newest_frames_of_a_folder_a_list_or_a_video(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", 12)
    video = tmp_path / "clip.mp4"
    write_h264(video, np.stack([grey(number) for number in range(12)]))
    for source in (str(folder), str(video)):
        row = first(rows({"video": source, "prompt": "go left"}))
        assert (row.id, row.prompt, values(row.history)) == ("request", "go left", [9, 10, 11])
        assert row.history.dtype == torch.uint8
        assert values(first(rows({"video": source, "prompt": "go"}, stride=4)).history) == [3, 7, 11]
    some = [str(folder / f"{number}.png") for number in (5, 1, 2)]
    assert values(first(rows({"video": some, "prompt": "go"})).history) == [5, 1, 2]  # as listed
    large = first(rows({"video": str(folder), "prompt": "go"}, size=32, crop="centre"))
    assert tuple(large.history.shape) == (3, 3, 32, 32)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_file_of_requests_goes_on_after_what_cannot_be_read(tmp_path: Path, suffix: str) -> None:
    write_frames(tmp_path / "media" / "long", 4)
    write_frames(tmp_path / "media" / "short", 2)
    asked = [
        {"video": "media/long", "prompt": "go left", "id": "a/b"},
        {"video": "media/short", "prompt": "go right"},
        {"video": "media/none.mp4", "prompt": "stop"},
        {"video": ["media/long/0.png", "media/long/1.png", "media/long/3.png"], "prompt": "stop"},
    ]
    path = tmp_path / f"asked.{suffix}"
    path.write_text(json.dumps(asked) if suffix == "json" else "\n".join(json.dumps(row) for row in asked))
    data = rows({"file": str(path)}, frames=5)
    assert len(data) == 4
    batch = data.collate([data[Pick(number, number, 1.0)] for number in range(4)])
    assert isinstance(batch, RequestBatch)
    assert (batch.numbers, batch.ids, batch.prompts, batch.frames) == ((0, 3), ("a/b", "3"), ("go left", "stop"), 5)
    assert batch.history is not None
    assert [values(history) for history in batch.history] == [[1, 2, 3], [0, 1, 3]]
    short, missing = batch.unreadable
    assert (short.id, short.prompt) == ("1", "go right")
    assert "has 2 frames, a history of 3 with a stride of 1 needs 3" in short.reason
    assert "none.mp4" in missing.reason
    alone = data.collate([data[Pick(1, 1, 1.0)]])
    assert alone.history is None
    assert isinstance(alone.unreadable[0], Unreadable)
    assert rows({"file": str(path)}).fingerprint == data.fingerprint
    moved = rows({"file": str(path), "media": str(tmp_path / "media")})
    assert moved.fingerprint != data.fingerprint


def test_a_single_request_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", 2)
    data = rows({"video": str(folder), "prompt": "go"}, stride=3)
    with pytest.raises(
        VideoReadError, match=r"has 2 frames.* needs 7; give a longer video, or a smaller data\.predict\.s"
    ):
        data[Pick(0, 0, 1.0)]


@pytest.mark.parametrize(
    ("request_", "changes", "message"),
    [
        ({"video": "a", "prompt": "go", "file": "b"}, {}, "give one of them"),
        ({"video": "a"}, {}, "belong together"),
        ({"prompt": "go"}, {}, "belong together"),
        ({"video": "a", "prompt": " "}, {}, "request: needs `video`"),
        ({"video": [], "prompt": "go"}, {}, "request: needs `video`"),
        ({"video": "a", "prompt": "go"}, {"stride": 0}, r"data\.predict\.stride=0"),
        ({"video": "a", "prompt": "go"}, {"frames": 0}, r"\.frames=0"),
        ({}, {}, "none"),
    ],
)
def test_a_request_of_another_form_is_refused(request_: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows(request_, **changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no list of rows"),
        ('{"video": "a"}', "no list of rows"),
        ('[{"video": "a", "prompt": "go"}, {"video": "a"}]', "row 1: needs `video`"),
        ('[{"video": 3, "prompt": "go"}]', "row 0: needs `video`"),
        ('["a"]', "row 0: needs `video`"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "asked.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        rows({"file": str(path)})


def test_rows_of_a_set_where_nothing_is_asked(tmp_path: Path) -> None:
    folder = make_set(tmp_path)
    where: dict[str, Any] = {"folder": str(folder), "media": str(tmp_path / "media"), "history": HISTORY}
    wanted = EditFrames(split="test", size=SIZE, **where)
    data = rows({"count": 2}, **where)
    assert len(data) == 2
    assert len(rows({"count": None}, **where)) == len(rows({"count": 99}, **where)) == 3
    batch = data.collate([data[Pick(number, number, 1.0)] for number in range(2)])
    assert batch.ids == ("test/0", "test/1")
    assert batch.prompts == tuple(row.instruction for row in wanted.rows[:2])
    assert batch.history is not None
    assert torch.equal(batch.history, torch.stack([wanted.history_of(0), wanted.history_of(1)]))
    (tmp_path / "media" / "test" / "00.png").unlink()
    broken = data.collate([data[Pick(0, 0, 1.0)]])
    assert broken.history is None
    assert "00.png" in broken.unreadable[0].reason
