"""Annotations that name URLs become annotations that name files, whatever happens on the way."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from common.data.conversations import DataError, load_conversations, resolve_source
from common.data.fetch import fetch_videos
from common.net.download import Downloader
from launchers.command import compose, run_task
from tests.common.net.server import CLIP, Server, World, file, redirect, status

ROOT = Path(__file__).resolve().parents[3]
GIF = b"GIF89a" + bytes(1000)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.pages |= {"/a.mp4": [file()], "/b.gif": [file(GIF, kind="image/gif")], "/gone.mp4": [status(404)]}
    yield server
    server.close()


def talk(video: Any, key: str = "video", number: int = 0) -> dict[str, Any]:
    said = [{"from": "human", "value": f"<video>\nWhat? {number}"}, {"from": "gpt", "value": f"Answer {number}."}]
    return {
        "id": f"row {number}",
        key: video,
        "conversations": said,
        "source": video,
        "extra": [1, None, {"a": "\u00e9"}],
    }


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows) if path.suffix == ".jsonl" else json.dumps(rows)
    path.write_text(text)
    return str(path)


def fetch(tmp_path: Path, *annotations: str, download: Downloader, **settings: Any) -> dict[str, int]:
    given = {"parallel": 3, "max_failed": 0.5, **settings}
    return fetch_videos(
        annotations=annotations,
        media=str(tmp_path / "media"),
        target=str(tmp_path / "target"),
        download=download,
        **given,
    )


def local(**settings: Any) -> Downloader:
    return Downloader(allow_private=["127.0.0.1"], first_wait=0.01, retries=2, **settings)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def name(url: str, suffix: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32] + suffix


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "media").iterdir() if path.is_file())


def test_urls_become_paths_and_nothing_else_of_a_row_changes(server: Server, tmp_path: Path) -> None:
    clip, gif, gone = (server.url(path) for path in ("/a.mp4", "/b.gif", "/gone.mp4"))
    rows = [talk(url, number=n) for n, url in enumerate([clip, gone, "own/file.mp4", gif, clip])]
    first, second = write(tmp_path / "one.json", rows), write(tmp_path / "two.jsonl", [rows[4], rows[1]])
    figures = fetch(tmp_path, first, second, download=local())
    assert figures == {"rows": 5, "left_out": 2, "videos": 2, "there_already": 0, "failed": 1}
    paths = {clip: name(clip, ".mp4"), gif: name(gif, ".gif")}
    kept = [{**row, "video": paths.get(row["video"], row["video"])} for row in rows if row["video"] != gone]
    assert read(tmp_path / "target/one.json") == kept
    assert [json.loads(line) for line in (tmp_path / "target/two.jsonl").read_text().splitlines()] == [kept[3]]
    assert (tmp_path / "media" / paths[clip]).read_bytes() == CLIP
    assert (tmp_path / "media" / paths[gif]).read_bytes() == GIF
    assert server.asked("/a.mp4") == 1
    assert read(tmp_path / "target/failures.json") == [
        {"url": gone, "rows": [f"{first} row 1", f"{second} row 1"], "reason": "HTTP 404"}
    ]
    listed = read(tmp_path / "target/fetched.json")
    assert [record.pop("date")[:2] for record in listed] == ["20", "20"]
    assert listed[0] == {
        "url": clip,
        "final_url": clip,
        "file": paths[clip],
        "bytes": len(CLIP),
        "sha256": hashlib.sha256(CLIP).hexdigest(),
        "content_type": "video/mp4",
    }
    row = load_conversations(tmp_path / "target/one.json")[0]
    assert resolve_source(tmp_path / "media", row) == tmp_path / "media" / paths[clip]


def _messages(*content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}, {"role": "assistant", "content": "A."}], **more}


QUESTION = {"type": "text", "text": "What? @"}
FORMS = [
    talk("@"),
    talk("@", key="video_url"),
    talk(["@"], key="videos"),
    {"q": "What?", "a": "That.", "video_id": "@"},
    {"video": "@", "QA": [{"i": "", "q": "What?", "a": "That."}]},
    _messages({"type": "video", "video": "@"}, QUESTION),
    _messages({"type": "video", "path": "@"}, QUESTION),
    _messages({"type": "video", "url": "@"}, QUESTION),
    _messages({"type": "video_url", "video_url": {"url": "@"}}, QUESTION),
    _messages(QUESTION, {"type": "image"}, {"type": "image"}, video_url="@", num_frames=2),
    _messages({"type": "image_url", "image_url": {"url": "@"}}, {"type": "image", "image": "other.png"}, QUESTION),
    talk([["@", "other.png", "@"]], key="videos"),
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_that_names_a_video(form: dict[str, Any], server: Server, tmp_path: Path) -> None:
    url = server.url("/b.gif")
    row = json.loads(json.dumps(form).replace('"@"', json.dumps(url)))
    fetch(tmp_path, write(tmp_path / "rows.json", [row]), download=local())
    wanted = json.loads(json.dumps(form).replace('"@"', json.dumps(name(url, ".gif"))))
    if "source" in wanted:
        wanted["source"] = url if isinstance(row["source"], str) else row["source"]
    assert read(tmp_path / "target/rows.json") == [wanted]


def test_a_row_of_frames_needs_all_of_them(server: Server, tmp_path: Path) -> None:
    good, gone = server.url("/b.gif"), server.url("/gone.mp4")
    rows = [talk([[good, gone]], key="videos"), talk(good)]
    assert fetch(tmp_path, write(tmp_path / "rows.json", rows), download=local())["left_out"] == 1
    assert [row["video"] for row in read(tmp_path / "target/rows.json")] == [name(good, ".gif")]


@pytest.mark.parametrize("scheme", ["ftp://127.0.0.1/a.mp4", "file:a.mp4", "s3://bucket/a.mp4"])
def test_an_address_of_another_scheme_is_a_failure_not_a_path(scheme: str, server: Server, tmp_path: Path) -> None:
    rows = [talk(scheme), talk(server.url("/a.mp4"))]
    assert fetch(tmp_path, write(tmp_path / "rows.json", rows), download=local())["failed"] == 1
    assert "scheme" in read(tmp_path / "target/failures.json")[0]["reason"]


def test_too_many_failures_end_it_before_annotations_are_written(server: Server, tmp_path: Path) -> None:
    rows = [talk(server.url(path)) for path in ("/a.mp4", "/gone.mp4", "/b.gif")]
    path = write(tmp_path / "rows.json", rows)
    with pytest.raises(
        ValueError, match=r"1 of 3 videos .* task\.max_failed=0\.3; .*failures\.json, the first: HTTP 404"
    ):
        fetch(tmp_path, path, download=local(), max_failed=0.3)
    assert sorted(each.name for each in (tmp_path / "target").iterdir()) == ["failures.json", "fetched.json"]
    assert fetch(tmp_path, path, download=local(), max_failed=0.34)["there_already"] == 2


def test_without_its_host_allowed_the_local_server_is_not_reached(server: Server, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", [talk(server.url("/a.mp4"))])
    with pytest.raises(ValueError, match=r"127\.0\.0\.1 is not of the public internet"):
        fetch(tmp_path, path, download=Downloader())
    assert server.requests == []


def test_a_redirect_into_the_private_network_is_listed(server: Server, tmp_path: Path) -> None:
    server.pages["/trap.mp4"] = [redirect("http://169.254.169.254/latest/meta-data/")]
    rows = [talk("http://clips.example/trap.mp4"), talk("http://clips.example/a.mp4")]
    fetch(tmp_path, write(tmp_path / "rows.json", rows), download=World(server).downloader())
    [failure] = read(tmp_path / "target/failures.json")
    assert failure["reason"] == "169.254.169.254 is not of the public internet, nor named in download.allow_private"


def test_a_file_with_no_row_left_is_an_error(server: Server, tmp_path: Path) -> None:
    one = write(tmp_path / "one.json", [talk(server.url("/gone.mp4"))])
    two = write(tmp_path / "two.json", [talk(server.url("/a.mp4"))])
    with pytest.raises(DataError, match=r"one\.json, video: none of the rows"):
        fetch(tmp_path, one, two, download=local())


def test_what_is_there_is_not_fetched_again_and_what_was_changed_is(server: Server, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", [talk(server.url("/a.mp4")), talk(server.url("/b.gif"))])
    fetch(tmp_path, path, download=local())
    before = read(tmp_path / "target/fetched.json")
    assert fetch(tmp_path, path, download=local())["there_already"] == 2
    assert read(tmp_path / "target/fetched.json") == before
    assert len(server.requests) == 2
    clip = tmp_path / "media" / before[0]["file"]
    clip.write_bytes(CLIP[:-1] + b"!")  # same size
    assert fetch(tmp_path, path, download=local())["there_already"] == 1
    assert clip.read_bytes() == CLIP
    clip.unlink()
    fetch(tmp_path, path, download=local())
    assert clip.read_bytes() == CLIP
    assert (server.asked("/a.mp4"), server.asked("/b.gif")) == (3, 1)
    assert len(files(tmp_path)) == 2


def test_a_whole_part_whose_record_is_written_is_only_moved(server: Server, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", [talk(server.url("/a.mp4"))])
    fetch(tmp_path, path, download=local())
    [file_name] = files(tmp_path)
    part = tmp_path / "media/.fetch" / file_name.replace(".mp4", ".part")
    (tmp_path / "media" / file_name).rename(part)  # as if killed between the two
    assert fetch(tmp_path, path, download=local())["there_already"] == 1
    assert (tmp_path / "media" / file_name).read_bytes() == CLIP
    assert server.asked("/a.mp4") == 1


RUN = """
import sys
from common.data.fetch import fetch_videos
from common.net.download import Downloader
fetch_videos(annotations=[sys.argv[1]], media=sys.argv[2], target=sys.argv[3], parallel=1, max_failed=0.5,
             download=Downloader(allow_private=["127.0.0.1"]))
"""


def test_killed_in_the_middle_and_started_again(server: Server, tmp_path: Path) -> None:
    sent = threading.Event()

    def hold(handler: Any) -> None:
        sent.set()
        handler.server_closing.wait()

    server.pages["/c.mp4"] = [file(CLIP * 2, cut=500_000, before=hold), file(CLIP * 2)]
    rows = [talk(server.url(path)) for path in ("/a.mp4", "/c.mp4", "/b.gif")]
    path = write(tmp_path / "rows.json", rows)
    arguments = [path, str(tmp_path / "media"), str(tmp_path / "target")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", RUN, *arguments], cwd=ROOT, env=environment)
    try:
        assert sent.wait(600)
        part = tmp_path / "media/.fetch" / name(rows[1]["video"], ".part")
        while not (part.is_file() and part.stat().st_size == 500_000):
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert files(tmp_path) == [name(rows[0]["video"], ".mp4")]
    assert not (tmp_path / "target").exists()
    assert fetch(tmp_path, path, download=local()) == {
        "rows": 3,
        "left_out": 0,
        "videos": 3,
        "there_already": 1,
        "failed": 0,
    }
    assert [server.asked(each) for each in ("/a.mp4", "/c.mp4", "/b.gif")] == [1, 2, 1]
    assert [headers.get("Range") for asked, headers in server.requests if asked == "/c.mp4"] == [None, "bytes=500000-"]
    assert (tmp_path / "media" / name(rows[1]["video"], ".mp4")).read_bytes() == CLIP * 2
    assert [each.name for each in (tmp_path / "media/.fetch").glob("*.part*")] == []


def test_several_are_fetched_at_a_time(server: Server, tmp_path: Path) -> None:
    together = threading.Barrier(3)  # each waits for the two others
    for number in range(3):
        server.pages[f"/{number}"] = [file(before=lambda handler: together.wait())]
    path = write(tmp_path / "rows.json", [talk(server.url(f"/{number}")) for number in range(3)])
    assert fetch(tmp_path, path, download=local(), parallel=3)["videos"] == 3


def test_a_full_disk_ends_it_and_is_no_failure_of_a_url(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(part: Path, source: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.net.download.begin", full)
    path = write(tmp_path / "rows.json", [talk(server.url("/a.mp4")), talk(server.url("/b.gif"))])
    with pytest.raises(OSError, match="No space left"):
        fetch(tmp_path, path, download=local(), max_failed=1.0)
    assert not (tmp_path / "target").exists()


def test_two_at_a_time_in_one_folder_are_refused(server: Server, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", [talk(server.url("/a.mp4"))])
    (tmp_path / "media/.fetch").mkdir(parents=True)
    with FileLock(tmp_path / "media/.fetch/lock"), pytest.raises(ValueError, match="another fetch_videos is at work"):
        fetch(tmp_path, path, download=local())


def test_a_proxy_in_the_environment_is_mentioned(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    fetch(tmp_path, write(tmp_path / "rows.json", [talk(server.url("/a.mp4"))]), download=local())
    assert "names a proxy" in caplog.text


def test_annotations_are_not_written_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    path = write(tmp_path / "target/rows.json", [talk(server.url("/a.mp4"))])
    with pytest.raises(ValueError, match=r"would be overwritten; choose another task\.target"):
        fetch(tmp_path, path, download=local())
    other = write(tmp_path / "rows.json", [talk(server.url("/a.mp4"))])
    with pytest.raises(ValueError, match="rename those that are the same"):
        fetch(tmp_path, other, path, download=local())
    with pytest.raises(ValueError, match="rename those that are the same"):
        fetch(tmp_path, write(tmp_path / "fetched.json", [talk("a.mp4")]), download=local())
    assert server.requests == []


def test_the_task_runs_from_its_configuration(server: Server, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", [talk(server.url("/a.mp4"))])
    overrides = ["task=fetch_videos", f"task.annotations=['{path}']", f"task.media='{tmp_path}/media'"]
    overrides += [f"task.target='{tmp_path}/target'", "task.download.allow_private=[127.0.0.1]", "paths.run=."]
    figures = run_task(compose(*overrides, config_name="prepare"))
    assert figures == {"rows": 1, "left_out": 0, "videos": 1, "there_already": 0, "failed": 0}
