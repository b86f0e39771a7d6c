"""Fixtures that more than one folder of tests needs."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def media() -> Path:
    """Folder of real clips, annotations and tokenizers; the tests that need it skip where it is not there."""
    folder = Path(os.environ.get("FRAMELAB_MEDIA", ROOT.parent / "shared" / "media"))
    if not folder.is_dir():
        pytest.skip(f"no folder of real clips at {folder} (set FRAMELAB_MEDIA)")
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a few of the built-in clips and their cached features."""
    from launchers.command import compose, prepare

    data = tmp_path_factory.mktemp("data")
    cfg = compose("paths.run=.", f"paths.data='{data}'")
    prepare([["task=shapes", "task.clips={train:40,val:8,test:8}"], ["task=clip_features_tiny"]], paths=cfg.paths)
    return data
