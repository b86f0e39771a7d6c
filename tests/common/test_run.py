"""The record of a run's starts, and which of two copies may write."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from common.checkpoint import CheckpointError
from common.run import RECORD, begin, git_state, overtaken, read_starts, refuse_changes, run_folder

ROOT = Path(__file__).resolve().parents[2]


def start(run: Path) -> int:
    return begin(run, config="seed: 0\n", resumed_from=None, root=ROOT).generation


def test_each_start_has_the_next_number_and_its_own_configuration(tmp_path: Path) -> None:
    assert [start(tmp_path / "run") for _ in range(3)] == [1, 2, 3]
    assert [each.generation for each in read_starts(tmp_path / "run")] == [1, 2, 3]
    assert {path.name for path in (tmp_path / "run").glob("config*")} == {
        "config.yaml",
        "config.2.yaml",
        "config.3.yaml",
    }


def test_starts_at_the_same_moment_have_numbers_of_their_own(tmp_path: Path) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(start(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [each.generation for each in read_starts(tmp_path)] == list(range(1, 9))


def test_the_older_of_two_starts_must_not_write(tmp_path: Path) -> None:
    first = start(tmp_path)
    assert overtaken(tmp_path, first) is None
    second = start(tmp_path)
    assert "start 2 has taken this run over; start 1 stops" in str(overtaken(tmp_path, first))
    assert overtaken(tmp_path, second) is None


def test_a_disk_that_does_not_answer_is_not_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = start(tmp_path)
    assert json.loads((tmp_path / RECORD).read_text())

    def stale(path: Path) -> str:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(Path, "read_text", stale)
    assert overtaken(tmp_path, first) is None
    assert "Stale file handle" in caplog.text


def test_a_machine_without_git_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(ROOT)[0] is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(ROOT) == (None, None)


def test_a_file_outside_of_runs_is_no_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    (tmp_path / "weights.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="lies in no run folder"):
        run_folder("train", str(tmp_path), "toy", str(tmp_path / "weights.ckpt"))


@pytest.mark.parametrize(
    "other",
    [
        {"trainer": {"gradient_clip_val": 5.0, "devices": 2}, "callbacks": {"ema": {"decay": 0.9}}},
        {"trainer": {"gradient_clip_val": 1.0, "devices": 2}, "callbacks": {"ema": {"decay": 0.5}}},
        {"trainer": {"gradient_clip_val": 1.0, "devices": 2}, "callbacks": {}},
    ],
)
def test_what_changes_the_steps_of_a_run_may_not_change_on_resumption(other: dict[str, Any]) -> None:
    first = {"trainer": {"gradient_clip_val": 1.0, "devices": 1}, "callbacks": {"ema": {"decay": 0.9}}}
    refuse_changes(first, first | {"trainer": {"gradient_clip_val": 1.0, "devices": 2}})
    with pytest.raises(ValueError, match="started with other settings"):
        refuse_changes(first, other)
