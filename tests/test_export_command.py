"""python -m launchers.export as a user sees it: a folder, a list of what would be sent, the Hub, and plain errors."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load_file

from common.checkpoint import CheckpointError
from common.config import ROOT, ConfigError
from common.hub import HubError, files_to_push
from launchers import export
from launchers.command import as_yaml, compose
from tests.common.fake_hub import TOKEN, FakeHub, serving
from tests.common.runs import make_run

MODULE = "projects.video_chatgpt.module.VideoChatGPT"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub()) as hub:
        yield hub


@pytest.fixture
def here(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake as the Hub of this process."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", {"model.projector.weight": torch.randn(3, 4)}, target=MODULE).parents[1]


def command(run: Path, *overrides: str) -> Path:
    folder = run.parent / "out"
    export.main(compose(f"ckpt='{run}'", f"paths.run='{folder}'", *overrides))
    return folder / "export"


@pytest.mark.usefixtures("here")
def test_a_dry_run_lists_every_file_and_asks_the_hub_nothing(
    hub: FakeHub, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = command(run, "export.push=me/it", "export.dry_run=true")
    shown = capsys.readouterr().out
    assert {name for name, _ in files_to_push(folder)} == {"README.md", "config.yaml", "trained.safetensors"}
    for name, size in files_to_push(folder):
        assert any(name in line and f"{size:,}" in line for line in shown.splitlines())
    assert "private" in shown
    assert "Nothing was sent" in " ".join(shown.split())
    assert hub.asked == []


@pytest.mark.usefixtures("here")
def test_the_folder_goes_to_a_private_repository_unless_said_otherwise(hub: FakeHub, run: Path) -> None:
    folder = command(run, "export.push=me/it")
    assert hub.files == {name: (folder / name).read_bytes() for name, _ in files_to_push(folder)}
    assert hub.private
    hub.exists = False
    command(run, "export.push=me/it", "export.private=false")
    assert not hub.private


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["export.dry_run=true"], ConfigError, r"export\.push=<user>/<name>"),
        (["export.push=it"], HubError, r"export\.push=it"),
        (["export.push=me/it", "export.layout=trianed"], ConfigError, "did you mean trained"),
        (["ckpt=none"], CheckpointError, "export needs ckpt="),
    ],
)
def test_a_mistake_is_said_before_anything_is_written_or_sent(
    overrides: list[str], error: type[Exception], message: str, hub: FakeHub, run: Path
) -> None:
    with pytest.raises(error, match=message):
        command(run, *overrides)
    assert not (run.parent / "out").exists()
    assert hub.asked == []


def test_without_a_token_nothing_is_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match="hf auth login"):
        command(run, "export.push=me/it")
    assert not (tmp_path / "out").exists()


def test_the_card_tells_how_to_load_the_tensors(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: dict[str, Any] = yaml.safe_load(as_yaml(compose("paths.run=.", f"paths.data='{shapes}'")))["model"]
    model["language_model"]["weights"] = str(ROOT / model["language_model"]["weights"])
    width = 128
    state = {"model.projector.weight": torch.randn(width, 128), "model.boundary": torch.randn(2, width)}
    target = model.pop("_target_")
    folder = command(make_run(tmp_path / "run", state, target=target, **model).parents[1])
    code = (folder / "README.md").read_text().split("```python")[1].split("```")[0]
    monkeypatch.chdir(ROOT)
    code = code.replace('"config.yaml"', repr(str(folder / "config.yaml")))
    scope: dict[str, Any] = {}
    exec(code.replace('load_file("trained', f'load_file("{folder}/trained'), scope)
    loaded = dict(scope["module"].named_parameters())
    assert all(torch.equal(loaded[name], value) for name, value in load_file(folder / "trained.safetensors").items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "code", "says"), [(TOKEN, 0, "sent to http"), ("wrong", 1, "error: the Hub does not")]
)
def test_the_command_itself(token: str, code: int, says: str, hub: FakeHub, run: Path) -> None:
    environment = {"OMP_NUM_THREADS": "1", "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token}
    arguments = [f"ckpt={run}", f"paths.outputs={run.parent}", "export.push=me/it"]
    done = subprocess.run(
        [sys.executable, "-m", "launchers.export", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert bool(hub.files) == (code == 0)
