"""The feature task: the published features, the same bytes however it is run, bad files named and counted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.data.cache import Cache, StaleCacheError
from common.encoders.clip import ClipPatches
from common.encoders.turns import pick_devices
from common.video.write import write_h264
from projects.video_chatgpt.feature_benchmark import ROUNDING
from projects.video_chatgpt.features import extract
from projects.video_chatgpt.plain_features import PlainLoop
from tests.experiments import in_turn

ROOT = Path(__file__).resolve().parents[3]
CLIP = str(ROOT / "common" / "tiny" / "weights" / "clip")
LENGTHS = (1, 3, 6, 9, 14, 5, 8, 7, 11)  # frames of the clips; TEMPORAL lies among them
TEMPORAL, PATCHES, WIDTH = 8, 16, 128


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of several lengths and sizes, and the annotations that name them."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for number, length in enumerate(LENGTHS):
        height, width = (48, 80) if number % 2 else (64, 64)
        write_h264(folder / f"{number}.mp4", rng.integers(0, 256, (length, height, width, 3), dtype=np.uint8))
    annotate(folder)
    return folder


def annotate(folder: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "<video>"}], "videos": [path.name]} for path in folder.glob("*.mp4")
    ]
    (folder / "rows.json").write_text(json.dumps(rows))


def run(clips: Path, cache: Path, **changes: Any) -> dict[str, int]:
    settings: dict[str, Any] = {"temporal": TEMPORAL, "backend": "pyav", "shard_size": 4, "clips_at_once": 3}
    settings |= {"max_failed": 0.0, "num_workers": 2, "devices": "cpu", "encoder": partial(ClipPatches, weights=CLIP)}
    return extract(annotations=[str(clips / "rows.json")], media=str(clips), cache=str(cache), **settings | changes)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("undisturbed")
    assert run(clips, cache) == {"videos": 9, "failed": 0, "shards made": 3, "shards missing": 0}
    return cache


def test_features_are_those_of_the_published_steps(clips: Path, undisturbed: Path) -> None:
    loop = PlainLoop(weights=CLIP, dtype="float32", temporal=TEMPORAL, reader="pyav", devices="cpu")
    cache = Cache(undisturbed)
    for number, length in enumerate(LENGTHS):
        ours, theirs = cache[f"{number}.mp4"].numpy(), loop(clips / f"{number}.mp4")
        assert ours.dtype == np.float16
        assert ours.shape == theirs.shape == (TEMPORAL + PATCHES, WIDTH)
        assert np.abs(ours.astype(float) - theirs.astype(float)).max() <= ROUNDING * np.abs(theirs).max()
        assert not ours[min(length, TEMPORAL) : TEMPORAL].any()  # the padding
        assert ours[: min(length, TEMPORAL)].any(axis=1).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": ["cpu", "cpu"]},
        {"devices": ["cpu", "cpu", "cpu"], "num_workers": 1},
        {"devices": "auto", "num_workers": 0} if not torch.cuda.is_available() else {"num_workers": 0},
    ],
    ids=["two devices", "three devices, one decoder", "a device a core, decoding in this process"],
)
def test_bytes_do_not_depend_on_devices_or_workers(
    clips: Path, undisturbed: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(clips, tmp_path, **changes)
    assert content(tmp_path) == content(undisturbed)


def test_bytes_do_not_depend_on_the_threads_of_the_caller(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(clips, tmp_path, num_workers=0)
        assert torch.get_num_threads() == 3  # given back
    finally:
        torch.set_num_threads(before)
    assert content(tmp_path) == content(undisturbed)


def test_machines_make_their_parts_and_the_last_one_the_index(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    first = run(clips, tmp_path, shard="0/2", devices=["cpu", "cpu"])
    assert first == {"videos": 5, "failed": 0, "shards made": 2, "shards missing": 1}
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {
        "shard_00000.safetensors",
        "shard_00002.safetensors",
    }
    with pytest.raises(FileNotFoundError, match="no finished cache"):
        Cache(tmp_path)
    second = run(clips, tmp_path, shard="1/2")
    assert second == {"videos": 9, "failed": 0, "shards made": 1, "shards missing": 0}
    assert content(tmp_path) == content(undisturbed)


def test_what_is_there_is_not_made_again(clips: Path, undisturbed: Path) -> None:
    def broken() -> Any:
        tower = ClipPatches(weights=CLIP)
        tower.forward = None  # type: ignore[method-assign]
        return tower

    assert run(clips, undisturbed, encoder=broken)["shards made"] == 0
    with pytest.raises(StaleCacheError, match="remove it"):
        run(clips, undisturbed, temporal=TEMPORAL + 1)


@pytest.mark.parametrize("devices", ["cpu", ["cpu", "cpu"]], ids=["one device", "two devices"])
def test_bad_files_are_named_counted_and_bounded(clips: Path, tmp_path: Path, devices: Any) -> None:
    folder, cache = tmp_path / "clips", tmp_path / "cache"
    folder.mkdir()
    for path in clips.glob("*.mp4"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "1.mp4").write_text("<html>not found</html>")
    (folder / "8.mp4").write_bytes(b"")  # alone in the last shard
    annotate(folder)
    with pytest.raises(ValueError, match=r"2 of 9 entries failed.*0\.2.*failures\.json"):
        run(folder, cache, max_failed=0.2, devices=devices)
    failures = {each["name"]: each["reason"] for each in json.loads((cache / "failures.json").read_text())}
    assert failures.keys() == {"1.mp4", "8.mp4"}
    assert "text" in failures["1.mp4"]
    assert "empty" in failures["8.mp4"]
    with pytest.raises(FileNotFoundError):
        Cache(cache)
    assert run(folder, cache, max_failed=0.25, devices=devices) == {
        "videos": 7,
        "failed": 2,
        "shards made": 0,
        "shards missing": 0,
    }
    assert set(Cache(cache)) == {f"{number}.mp4" for number in range(9)} - failures.keys()


def test_an_encoder_that_fails_stops_the_task(clips: Path, tmp_path: Path) -> None:
    class Fails(ClipPatches):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(clips, tmp_path, encoder=partial(Fails, weights=CLIP), devices=["cpu", "cpu"])
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("names", ["gpu", ["cpu", "cuda:99"], []])
def test_devices_that_are_not_there_are_refused(names: Any) -> None:
    with pytest.raises(ValueError, match=r"task\.devices=.*there is auto, cpu"):
        pick_devices(names)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    run(clips, tmp_path / "one", devices="cuda:0")
    run(clips, tmp_path / "two", devices=["cuda:0", "cuda:0"])
    assert content(tmp_path / "one") == content(tmp_path / "two")
    for name, features in Cache(undisturbed).items():
        torch.testing.assert_close(Cache(tmp_path / "one")[name], features, rtol=1e-2, atol=1e-2)


# Killed for real


def command(data: Path, cache: Path, *overrides: str) -> list[str]:
    task = ["task=clip_features_tiny", "task.shard_size=8", f"task.cache={cache}", f"paths.data={data}"]
    return [sys.executable, "-m", "launchers.prepare", *task, f"paths.outputs={data}", *overrides]


def killed_when(condition: Callable[[], bool], arguments: list[str]) -> None:
    """Starts the task and kills it, by SIGKILL, when the condition holds."""
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not condition():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


@in_turn(1)
def test_killed_twice_it_ends_with_the_same_bytes_and_repeats_no_shard(tmp_path: Path) -> None:
    shapes = ["task=shapes", "task.clips={train:300,val:10,test:10}", f"paths.data={tmp_path}"]
    subprocess.run([sys.executable, "-m", "launchers.prepare", *shapes], cwd=ROOT, check=True)
    subprocess.run(command(tmp_path, tmp_path / "whole"), cwd=ROOT, check=True)
    killed = tmp_path / "killed"

    def done() -> dict[str, tuple[int, int]]:
        """Identity and date of what belongs to a finished shard."""
        numbers = [path.stem for path in killed.glob("shard_*.json")]
        states = [(killed / f"{number}{end}") for number in numbers for end in (".json", ".safetensors")]
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in states}

    killed_when(lambda: len(done()) >= 2 * 3, command(tmp_path, killed, "task.num_workers=1"))
    first = done()
    # Again later, and while a file is being written.
    killed_when(
        lambda: len(done()) >= 2 * 15 and any(killed.glob(".shard_*.part")),
        command(tmp_path, killed, "task.devices=[cpu,cpu]"),
    )
    second = done()
    assert first.items() < second.items()
    assert not (killed / "index.json").exists()
    subprocess.run(command(tmp_path, killed), cwd=ROOT, check=True)
    assert second.items() < done().items()
    assert content(killed) == content(tmp_path / "whole")
