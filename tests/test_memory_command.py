"""The command itself: what it prints, what it writes, and that the pages hold what it writes."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.memory.table import BEGIN, END
from launchers.machine import relatives

ROOT = Path(__file__).resolve().parents[1]


def done(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "launchers.memory", *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def command(*words: str) -> str:
    ended = done(*words)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_parts_and_settings_of_the_tiny_run(tmp_path: Path) -> None:
    printed = command("experiment=video_chatgpt_tiny", f"paths.outputs={tmp_path}")
    for word in ("weights, trained", "activations", "during forward and backward", "checkpoint_fraction=0.5"):
        assert word in printed
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_no_success(tmp_path: Path) -> None:
    refused = done("hardware=cpu", f"memory.write={tmp_path}/page.md")
    assert refused.returncode == 1
    assert "memory.write=" in refused.stderr
    assert "hardware=rtx4090" in refused.stderr


def test_relatives_differ_in_what_learns() -> None:
    assert relatives("llava_video_tiny") == ["llava_video_lora_tiny"]
    assert {"llava_video"} <= {*relatives("llava_video_lora")}
    assert {"video_chatgpt_full", "video_chatgpt_lora"} <= {*relatives("video_chatgpt")}


@pytest.mark.slow
@pytest.mark.parametrize("page", [path for path in ROOT.glob("projects/*/README.md") if BEGIN in path.read_text()])
def test_pages_hold_what_the_command_writes(page: Path, tmp_path: Path) -> None:
    before = page.read_text()
    written = before.partition(BEGIN)[2].partition(END)[0]
    words = written.partition("`python -m launchers.memory ")[2].partition("`")[0].split()
    assert words, f"{page}: nothing is written yet"
    copy = tmp_path / "README.md"
    copy.write_text(before)
    words = [f"memory.write={copy}" if word.startswith("memory.write=") else word for word in words]
    command(*words, f"paths.outputs={tmp_path}")
    rows = [line for line in copy.read_text().splitlines() if line.startswith("| ")]
    assert rows == [line for line in before.splitlines() if line.startswith("| ")]
