"""The built-in clips and pairs, a few of them."""

from pathlib import Path

import pytest

from common.shapes_world.dataset import write


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "shapes"
    write(
        root=root,
        clips={"train": 60, "val": 0, "test": 24},
        edits={"train": 0, "val": 0, "test": 0},
        pairs={"train": 0, "val": 0, "test": 60},
        parts=["captions", "pairs"],
        workers=1,
    )
    return root
