"""The files that the tests of video reading share."""

from pathlib import Path

import pytest

from tests.common.video import files


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, files.Made]:
    """Files that every player can play, by name, with what it shows."""
    return files.make(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MP4 with its index in front, one key frame in 15, of which the damaged files are made."""
    path = tmp_path_factory.mktemp("clean") / "clean.mp4"
    return files.encode(path, 90, *files.X264, "-g", "15", "-movflags", "+faststart")
