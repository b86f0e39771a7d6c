"""The process that may be killed: real hangs, real crashes, real want of memory."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.video import worker as worker_module
from common.video.decode import VideoReadError, read
from common.video.worker import Worker, expected_seconds, read_isolated
from tests.common.video import files
from tests.common.video.files import Made, number_of

LIMITS = {"deadline_seconds": 60.0, "memory_bytes": 4 << 30}
HOSTILE = """
import ctypes, os, sys, time
from common.video import child

def spin(request):
    while True:
        pass

def crash(request):
    ctypes.string_at(0)

def leave(request):
    os._exit(7)

def chatter(request):
    print("a library that prints")
    os.write(1, b"and one that writes to the terminal itself")
    return {"fine": True}, None

def swell(request):
    return {"size": len(bytearray(8 << 30))}, None


extra = {"spin": spin, "crash": crash, "leave": leave, "chatter": chatter, "swell": swell}
if __name__ == "__main__":
    which = os.environ.get("HOSTILE_READ")
    replaced = {"read": extra[which]} if which else {}
    child.serve(child.OPERATIONS | extra | replaced)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    return tmp_path / "hostile.py"


@pytest.fixture
def hostile(script: Path) -> Iterator[Worker]:
    worker = Worker(command=[sys.executable, str(script)])
    yield worker
    worker.close()


def assert_it_still_works(worker: Worker, path: Path) -> None:
    answer, _ = worker.request("probe", path, backend="pyav", **LIMITS)
    assert answer["num_frames"] == 90


def test_a_hang_is_ended_at_its_deadline(hostile: Worker, clean: Path) -> None:
    hostile.request("probe", clean, backend="pyav", **LIMITS)
    start = time.monotonic()
    with pytest.raises(VideoReadError, match=r"no result after 0\.5 s") as caught:
        hostile.request("spin", clean, deadline_seconds=0.5, memory_bytes=1 << 30)
    assert caught.value.path == str(clean)
    assert 0.4 < time.monotonic() - start < 20
    assert_it_still_works(hostile, clean)


def test_a_crash_is_an_error_that_names_the_signal(hostile: Worker, clean: Path) -> None:
    with pytest.raises(VideoReadError, match="crashed its process: SIGSEGV") as caught:
        hostile.request("crash", clean, **LIMITS)
    assert caught.value.path == str(clean)
    assert_it_still_works(hostile, clean)


def test_an_end_without_an_answer_is_an_error(hostile: Worker, clean: Path) -> None:
    with pytest.raises(VideoReadError, match="ended its process with code 7"):
        hostile.request("leave", clean, **LIMITS)
    assert_it_still_works(hostile, clean)


def test_want_of_memory_is_an_error_and_the_process_is_replaced(hostile: Worker, clean: Path) -> None:
    assert_it_still_works(hostile, clean)
    assert hostile.process is not None
    before = hostile.process.pid
    with pytest.raises(VideoReadError, match="more than memory_bytes=1073741824"):
        hostile.request("swell", clean, deadline_seconds=60, memory_bytes=1 << 30)
    assert_it_still_works(hostile, clean)
    assert hostile.process.pid != before


def test_what_libraries_print_does_not_get_into_the_answers(hostile: Worker, clean: Path) -> None:
    assert hostile.request("chatter", clean, **LIMITS)[0] == {"fine": True}
    assert_it_still_works(hostile, clean)


def test_a_process_killed_from_outside_is_replaced(hostile: Worker, clean: Path) -> None:
    assert_it_still_works(hostile, clean)
    assert hostile.process is not None
    hostile.process.kill()
    hostile.process.wait()
    assert_it_still_works(hostile, clean)


@pytest.mark.parametrize(
    ("kind", "reason"), [("spin", r"no result after 1 s"), ("crash", "SIGSEGV"), ("swell", "memory_bytes")]
)
def test_read_isolated_turns_each_into_an_error_with_the_name(
    kind: str, reason: str, script: Path, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTILE_READ", kind)
    helper = Worker(command=[sys.executable, str(script)])
    monkeypatch.setattr(worker_module, "worker", lambda: helper)
    deadline = 1.0 if kind == "spin" else 60.0
    with pytest.raises(VideoReadError, match=reason) as caught:
        read_isolated(clean, [0], deadline_seconds=deadline, memory_bytes=2 << 30)
    assert caught.value.path == str(clean)
    helper.close()


def test_isolated_is_the_same_as_direct(made: dict[str, Made]) -> None:
    for name in ("ordinary.mp4", "cut_sound.mp4", "b_frames.avi", "copied.ts", "rotated_90.mp4"):
        path = made[name].path
        direct, isolated = read(path, [5, 1, 30]), read_isolated(path, [5, 1, 30])
        np.testing.assert_array_equal(direct.frames, isolated.frames)
        np.testing.assert_array_equal(direct.seconds, isolated.seconds)
        assert isolated.indices.tolist() == [5, 1, 30]


def test_counts_of_damage_and_functions_of_the_facts_pass_through(clean: Path, tmp_path: Path) -> None:
    files.cut_off(clean, tmp_path / "truncated.mp4", 0.7)
    clip = read_isolated(tmp_path / "truncated.mp4", lambda info: range(info.num_frames))
    direct = read(tmp_path / "truncated.mp4", range(len(clip.frames)))
    assert (clip.bad_packets, clip.corrupt_frames) == (direct.bad_packets, direct.corrupt_frames)
    assert clip.bad_packets > 0


def test_errors_pass_through(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoReadError, match="is empty"):
        read_isolated(tmp_path / "empty.mp4", [0])
    with pytest.raises(VideoReadError, match="frame 90 asked for"):
        read_isolated(clean, [90])


def test_images_pass_through(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(3):
        Image.fromarray(files.draw(i)).save(tmp_path / f"{i}.png")
    for source in (tmp_path, [tmp_path / "0.png", tmp_path / "1.png", tmp_path / "2.png"]):
        assert [number_of(frame) for frame in read_isolated(source, [2, 0]).frames] == [2, 0]


def test_too_little_memory_for_the_clip_is_an_error(made: dict[str, Made], monkeypatch: pytest.MonkeyPatch) -> None:
    helper, path = Worker(), made["ordinary.mp4"].path
    monkeypatch.setattr(worker_module, "worker", lambda: helper)
    many = list(range(200)) * 40  # 147 MB
    with pytest.raises(VideoReadError, match="more than memory_bytes=67108864") as caught:
        read_isolated(path, many, memory_bytes=64 << 20)
    assert caught.value.path == str(path)
    assert len(read_isolated(path, many, memory_bytes=1 << 30).frames) == 8000
    helper.close()


def test_one_process_serves_many_files(made: dict[str, Made]) -> None:
    read_isolated(made["ordinary.mp4"].path, [0])
    helper = worker_module.worker()
    assert helper.process is not None
    before = helper.process.pid
    for _ in range(5):
        read_isolated(made["cut_gop30.mp4"].path, [0])
    assert helper.process.pid == before
    assert worker_module.worker() is helper


def test_a_fork_does_not_use_its_parents_process(made: dict[str, Made]) -> None:
    read_isolated(made["ordinary.mp4"].path, [0])
    mine = worker_module.worker()
    assert mine.process is not None
    child = os.fork()
    if child == 0:
        mine.close()  # what atexit would do
        other = worker_module.worker()
        os._exit(0 if other is not mine and other.process is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert mine.process.poll() is None


def test_the_deadline_grows_with_the_work(made: dict[str, Made]) -> None:
    from common.video.decode import probe

    info = probe(made["ordinary.mp4"].path)._replace(height=1080, width=1920)
    assert expected_seconds(info, np.array([0])) < 0.1
    assert expected_seconds(info, np.array([1799])) == pytest.approx(1800 * 1080 * 1920 / 5e7)
