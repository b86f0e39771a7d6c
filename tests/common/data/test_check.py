"""Every bad row of a file is listed, not only the first, and the command ends with a status of 1."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.cache import CacheWriter, Item
from common.data.check import check_annotations, read_all
from common.data.conversations import NOISE, DataError
from common.files import read_jsonl
from common.video.write import write_h264

ROOT = Path(__file__).resolve().parents[3]


def row(video: str = "a.mp4", answer: str = "red") -> dict[str, Any]:
    turns = [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": answer}]
    return {"id": "1", "video": video, "conversations": turns}


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    frames = np.zeros((8, 32, 32, 3), dtype=np.uint8)
    for name in ("a.mp4", "b.mp4"):
        write_h264(folder / name, frames, fps=8.0)
    data = (folder / "b.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(data[: len(data) // 3])
    return folder


def run(tmp_path: Path, rows: list[Any], **changes: Any) -> dict[str, int]:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    settings: dict[str, Any] = {"media": None, "features": None, "frames": 0, "backend": "pyav"} | changes
    return check_annotations(annotations=[str(path)], report=str(tmp_path / "bad.jsonl"), **settings)


def problems(tmp_path: Path) -> list[str]:
    return [str(each["problem"]) for each in read_jsonl(tmp_path / "bad.jsonl")]


def test_good_rows_pass(tmp_path: Path, clips: Path) -> None:
    assert run(tmp_path, [row(), row("b.mp4")], media=str(clips), frames=4) == {"rows": 2, "videos": 2, "problems": 0}
    assert problems(tmp_path) == []


def test_every_bad_row_is_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = [row(), {"q": "?"}, row(answer=" "), "text", row(answer=NOISE), row() | {"video": 3}, row()]
    with caplog.at_level(logging.ERROR), pytest.raises(ValueError, match=r"5 problems in 7 rows"):
        run(tmp_path, bad)
    found = problems(tmp_path)
    assert [int(text.split(" row ")[1].split(",")[0]) for text in found] == [1, 2, 3, 4, 5]
    for text, field in zip(found, ["keys", "answer", "row", "answer", "video"], strict=True):
        assert f"rows.json row {text.split(' row ')[1].split(',')[0]}, {field}: " in text
        assert text in caplog.text


@pytest.mark.parametrize("frames", [0, 4])
def test_missing_and_broken_videos_are_listed(frames: int, tmp_path: Path, clips: Path) -> None:
    rows = [row(), row("broken.mp4"), row("absent.mp4"), row("broken.mp4")]
    with pytest.raises(ValueError, match="3 problems in 4 rows"):
        run(tmp_path, rows, media=str(clips), frames=frames)
    found = problems(tmp_path)
    assert [" row 1, video: " in found[0], " row 2, video: " in found[1], " row 3, video: " in found[2]] == [True] * 3
    assert "broken.mp4" in found[0]
    assert "is not there" in found[1]


def test_lists_of_frames_are_read_and_addresses_are_listed(tmp_path: Path, clips: Path) -> None:
    for name in ("1.png", "2.png", "small.png"):
        side = 16 if name == "small.png" else 32
        Image.new("RGB", (side, side)).save(clips / name)
    (clips / "cut.png").write_bytes((clips / "1.png").read_bytes()[:40])
    lists = [
        ["1.png", "2.png", "1.png"],
        ["1.png", "3.png"],
        *(["1.png", name, "2.png"] for name in ("cut.png", "small.png")),
    ]
    rows = [row() | {"video": [each]} for each in lists] + [row("https://example.org/a.mp4")]
    with pytest.raises(ValueError, match="4 problems in 5 rows"):
        run(tmp_path, rows, media=str(clips), frames=4)
    found = problems(tmp_path)
    for number, words in enumerate(("3.png is not there", "cut.png", "size changes", "task=fetch_videos"), start=1):
        assert f"row {number}, video: " in found[number - 1]
        assert words in found[number - 1]


def test_missing_and_damaged_features_are_listed(tmp_path: Path, clips: Path) -> None:
    items = [Item("a.mp4", "1"), Item("b.mp4", "2")]
    writer = CacheWriter(tmp_path / "cache", items=items, settings={}, shard_size=2)
    writer.write(0, {"1": torch.zeros(2, 3), "2": torch.full((2, 3), float("nan"))}, [])
    writer.finish(max_failed=0.0)
    with pytest.raises(ValueError, match="2 problems in 3 rows"):
        run(tmp_path, [row(), row("b.mp4"), row("c.mp4")], features=str(tmp_path / "cache"))
    found = problems(tmp_path)
    assert "not finite" in found[0]
    assert "c.mp4 has no features" in found[1]


def test_a_line_that_is_not_json_is_one_problem_among_others(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row()) + "\n{cut off\n" + json.dumps(row()) + "\n")
    read = read_all(path)
    assert [isinstance(each, DataError) for each in read] == [False, True, False]
    assert "row 1, line: is not JSON" in str(read[1])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.json", "{cut", "not JSON"),
        ("rows.json", "{}", "holds dict"),
        ("rows.json", "[]", "holds no rows"),
        ("absent.json", None, "is not there"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_all(tmp_path / name)


def test_the_command_ends_with_a_status(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([row(answer=""), row(answer="")]))
    command = [sys.executable, "-m", "launchers.prepare", "task=check", f"task.annotations=[{tmp_path}/rows.json]"]
    command += ["task.media=null", f"paths.outputs={tmp_path}"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "2 problems in 2 rows" in done.stderr
    assert "row 1, answer" in done.stderr + done.stdout
