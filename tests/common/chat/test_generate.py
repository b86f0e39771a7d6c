"""`generate` as its users call it: a file of questions with a broken video in it, and a talk in a real terminal."""

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from launchers import generate
from launchers.command import compose

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["prepare=[]", "batch.eval=2"]


@pytest.mark.parametrize("experiment", ["video_chatgpt_tiny", "llava_video_tiny"])
def test_a_file_of_questions_with_videos_that_cannot_be_read(experiment: str, shapes: Path, tmp_path: Path) -> None:
    clips = sorted((shapes / "shapes" / "clips" / "test").glob("*.mp4"))[:2]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clips[0].read_bytes()[:300])
    missing = tmp_path / "missing.mp4"
    rows = [
        {"id": str(n), "messages": [{"role": "user", "content": "<video>what shape is it ?"}], "videos": [str(video)]}
        for n, video in enumerate([clips[0], broken, missing, clips[1]])
    ]
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = [f"paths.data='{shapes}'", f"paths.run='{tmp_path}'"]
    asked = [f"experiment={experiment}", f"request.file={file}", "request.media=/"]
    generate.main(compose(*SMALL, *where, *asked))
    lines = [json.loads(line) for line in (tmp_path / "generated.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["0", "1", "2", "3"]
    assert [line["pred"] is None for line in lines] == [False, True, True, False]
    assert ["error" in line for line in lines] == [False, True, True, False]
    assert "is not there" in lines[2]["error"]
    assert lines[0]["question"] == "what shape is it ?"


def test_a_missing_video_of_a_request_is_named(shapes: Path, tmp_path: Path) -> None:
    where = [f"paths.data='{shapes}'", f"paths.run='{tmp_path}'"]
    asked = ["request.video=nowhere.mp4", "request.prompt=what"]
    with pytest.raises(ValueError, match=r"nowhere\.mp4 is not there"):
        generate.main(compose(*SMALL, *where, *asked))


@pytest.mark.slow
def test_a_talk_in_a_terminal(shapes: Path, tmp_path: Path) -> None:
    clip = next((shapes / "shapes" / "clips" / "test").glob("*.mp4"))
    where = [f"paths.data={shapes}", f"paths.outputs={tmp_path}"]
    command = [sys.executable, "-m", "launchers.generate", *SMALL, *where, "request.chat=true"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    shown = ""
    for line in (f"/video {clip}", "what shape is it ?", "/quit"):
        shown += until_asked(ours)
        os.write(ours, f"{line}\n".encode())
    assert process.wait() == 0, process.stderr.read() if process.stderr else ""
    assert "no video" in shown
    assert clip.name[-8:] in shown


def until_asked(terminal: int) -> str:
    """What the program writes until it waits for input."""
    shown = ""
    while not shown.endswith(" > "):
        select.select([terminal], [], [])
        shown += os.read(terminal, 4096).decode()
    return shown
