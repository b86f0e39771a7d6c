"""The command itself: its rows, its exit status, and that it leaves nothing behind."""

import re
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from common.config import CONF, ROOT
from common.doctor.sources import terms_of
from launchers import doctor
from launchers.command import compose, run
from launchers.machine import LOOK


def look(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int | str | None:
    GlobalHydra.instance().clear()
    where = [f"paths.data='{folder}/data'", f"paths.outputs='{folder}/outputs'"]
    monkeypatch.setattr(sys, "argv", ["doctor", *LOOK, *where, *words])
    try:
        run(doctor.main, config_name="config")
    except SystemExit as left:
        return left.code
    finally:
        GlobalHydra.instance().clear()
    return 0


def test_the_tiny_run_is_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert look(monkeypatch, tmp_path) == 0
    printed = capsys.readouterr().out
    for word in (
        "composes and binds",
        "will be made by the run",
        "4 checkpoints of",
        "activations",
        "as tested",
        "Hub",
    ):
        assert word in printed, word
    assert "FAIL" not in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_published_run_lists_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiment=pix2pix_video", "hardware=gpu", "hw=gpu0.1", "trainer.devices=2"]
    assert look(monkeypatch, tmp_path, *words) == 1
    printed = capsys.readouterr().out
    for word in ("task=widen_unet", "hf download timbrooks/instruct-pix2pix", "OpenRAIL", "of 0.1 GB", "2 wanted"):
        assert word in printed, word


def test_a_micro_batch_that_is_given_is_the_one_that_is_looked_at() -> None:
    words = ["experiment=video_chatgpt_tiny", "hw=gpu48", "paths.run=unused"]
    for more, first in (([], "micro-batch on gpu48"), (["batch.micro=16"], "configuration")):
        assert next(doctor.examine(compose(*words, *more), {})).what == first


def test_a_wrong_configuration_is_the_only_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert look(monkeypatch, tmp_path, "batch.global=33") == 1
    printed = capsys.readouterr().out
    assert printed.count("FAIL") == 1
    assert "choose batch.micro" in printed


def test_every_repository_of_the_hub_has_its_licence_told() -> None:
    text = "\n".join(path.read_text() for path in CONF.rglob("*.yaml"))
    named = set(re.findall(r"(?:weights|before|base|source|delta): ([A-Z0-9a-z][\w.-]*/[\w.-]+)[ ,}\n]", text))
    hub = {name for name in named if not (ROOT / name).exists()}
    assert len(hub) >= 8, hub
    page = (ROOT / "LICENSES.md").read_text()
    assert [name for name in sorted(hub) if not terms_of(name, page)] == []
