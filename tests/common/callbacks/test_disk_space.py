"""A disk that is too small: refused before, refused on the way, full in the middle of a write; what is good stays."""

import logging
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning import Callback, LightningModule, Trainer

from common import checkpoint, disk
from common.checkpoint import committed, is_good, newest_good
from common.disk import DiskSpaceError
from tests.common.callbacks.toy_run import fit

ROOT = Path(__file__).resolve().parents[3]
PARAMETERS = 300 * 300 + 300


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def free(monkeypatch: pytest.MonkeyPatch, *answers: int) -> None:
    """The disk answers these numbers in turn, then the last one for ever."""
    left = list(answers)
    monkeypatch.setattr(disk, "free_bytes", lambda folder: left.pop(0) if len(left) > 1 else left[0])


def exact(message: str, word: str) -> int:
    found = re.search(rf"\(([\d,]+) bytes\)[^;]*{word}|([\d,]+) bytes[^;]*{word}", message)
    assert found is not None, message
    return int((found[1] or found[2]).replace(",", ""))


def test_a_start_that_cannot_hold_one_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 1_000_000)
    with pytest.raises(DiskSpaceError, match="bytes") as refused:
        fit(tmp_path)
    missing = exact(str(refused.value), "are missing")
    assert missing == pytest.approx(PARAMETERS * (4 + 8) - 1_000_000, abs=100_000)
    assert names(tmp_path) == ["direction"]


def test_a_start_that_cannot_hold_all_that_stays_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free(monkeypatch, 3_000_000)
    with caplog.at_level(logging.WARNING, logger="common.callbacks.checkpointing"):
        fit(tmp_path)
    assert "3 checkpoints" in caplog.text
    assert exact(caplog.text, "are missing") == pytest.approx(3 * PARAMETERS * 12 - 3_000_000, abs=300_000)


def test_a_disk_that_is_large_enough_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="common.callbacks.checkpointing"):
        fit(tmp_path)
    assert caplog.text == ""
    assert [path.name for path in committed(tmp_path / "checkpoints")] == ["step_0000004.ckpt", "step_0000006.ckpt"]


def test_a_save_that_would_not_fit_is_refused_and_the_last_good_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 1 << 40, 1 << 40, 1 << 40, 5_000)  # start, all that stays, first save, second save
    with pytest.raises(DiskSpaceError, match="step 4 needs") as refused:
        fit(tmp_path)
    assert exact(str(refused.value), "are missing") == exact(str(refused.value), "; ") - 5_000
    assert "step_0000002.ckpt is kept" in str(refused.value)
    assert names(tmp_path) == ["direction", "last", "step_0000002.ckpt", "step_0000002.json"]
    kept = tmp_path / "checkpoints" / "step_0000002.ckpt"
    assert is_good(kept)
    monkeypatch.undo()
    fit(tmp_path, ckpt=kept)
    assert committed(tmp_path / "checkpoints")[-1].name == "step_0000006.ckpt"


@pytest.fixture
def file_limit() -> Iterator[tuple[int, int]]:
    """The limits of the size of a file, which are put back afterwards."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield limits
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class LimitedFrom(Callback):
    """From a step on, files may not grow past 400,000 bytes."""

    def __init__(self, step: int, hard: int) -> None:
        self.step, self.limits = step, (400_000, hard)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


def test_a_write_that_fails_half_way_leaves_the_last_good_one_and_nothing_else(
    tmp_path: Path, file_limit: tuple[int, int]
) -> None:
    with pytest.raises(DiskSpaceError, match=r"failed after .*400,000 bytes.*: File too large") as refused:
        fit(tmp_path, LimitedFrom(step=3, hard=file_limit[1]))
    assert "step_0000002.ckpt is kept" in str(refused.value)
    assert names(tmp_path) == ["direction", "last", "step_0000002.ckpt", "step_0000002.json"]
    assert is_good(tmp_path / "checkpoints" / "step_0000002.ckpt")


def test_a_manifest_that_cannot_be_written_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint.atomic_write_text

    def full(path: Path, text: str) -> None:
        if "0000004.json" in path.name:
            raise OSError(28, os.strerror(28))
        write(path, text)

    monkeypatch.setattr(checkpoint, "atomic_write_text", full)
    with pytest.raises(DiskSpaceError, match="No space left on device"):
        fit(tmp_path)
    assert names(tmp_path) == ["direction", "last", "step_0000002.ckpt", "step_0000002.json"]


def test_cleaning_takes_only_what_a_run_writes(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    strangers = [".step_notes.part", "step_0000001_mine.ckpt", "step_0000001_mine.json", ".part", "notes.part"]
    ours = [".step_0000009.ckpt.part", "..step_0000009.json.part.0123abcd.part", ".last.0123abcd.part"]
    ours += [".step_0000009.ckpt.00000002.part", "..step_0000009.json.00000002.part.0123abcd.part"]
    for name in [*strangers, *ours]:
        (folder / name).write_text("{}")
    fit(tmp_path)
    assert {*strangers} <= {*names(tmp_path)}
    assert not {*ours} & {*names(tmp_path)}


# On a file system that is really that small


@pytest.fixture
def small_disk(tmp_path: Path) -> list[str]:
    """The start of a command line that runs a program with 2.9 MB of disk at `tmp_path/disk`."""
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=2900k none '{tmp_path}/disk'"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*command, mount], capture_output=True).returncode:
        pytest.skip("no file system of its own can be mounted here (unshare --user --mount)")
    return [*command, f'{mount} && "$@"; code=$?; cp -r "{tmp_path}/disk" "{tmp_path}/kept"; exit $code', "sh"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["1"], "are missing"), (["2"], "are missing"), (["1", "blind"], "No space left"), (["2", "blind"], "No space")],
    ids=["one process", "two processes", "one process, unforeseen", "two processes, unforeseen"],
)
def test_a_full_disk_ends_every_process_and_keeps_what_is_good(
    arguments: list[str], said: str, small_disk: list[str], tmp_path: Path
) -> None:
    program = [sys.executable, "-m", "tests.common.callbacks.toy_run", f"{tmp_path}/disk/run", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*small_disk, *program], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr[-3000:]
    assert said in done.stderr
    assert "step_0000004.ckpt is kept" in done.stderr
    kept = tmp_path / "kept" / "run"
    assert names(kept) == ["direction", "last", *(f"step_000000{n}.{end}" for n in (2, 4) for end in ("ckpt", "json"))]
    assert newest_good(kept / "checkpoints") == kept / "checkpoints" / "step_0000004.ckpt"
