"""Fixtures that more than one folder of tests needs."""

import os
from pathlib import Path

import pytest

from tests.experiments import turn

ROOT = Path(__file__).resolve().parents[1]
FEW_CLIPS = ["task.clips={train:40,val:8,test:12}", "task.edits={train:40,val:8,test:16}"]
FEW = {"task=shapes": [*FEW_CLIPS, "task.pairs={train:20,val:12,test:12}"]}


def pytest_report_header() -> str:
    """Which method goes through the larger matrices."""
    return f"larger matrices: {turn()} (FRAMELAB_METHOD names another)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What trains for minutes comes first, or one worker would be left with it at the end while the others wait."""
    items.sort(key=lambda item: item.get_closest_marker("learning") is None)


@pytest.fixture(scope="session")
def media() -> Path:
    """Folder of real clips, annotations and tokenizers; the tests that need it skip where it is not there."""
    folder = Path(os.environ.get("FRAMELAB_MEDIA", ROOT.parent / "shared" / "media"))
    if not folder.is_dir():
        pytest.skip(f"no folder of real clips at {folder} (set FRAMELAB_MEDIA)")
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a few of the built-in clips and what the tiny experiments prepare from them."""
    from launchers.command import compose, prepare

    data = tmp_path_factory.mktemp("data")
    needs: list[list[str]] = []
    for experiment in sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*_tiny.yaml")):
        cfg = compose(f"experiment={experiment}", "paths.run=.", f"paths.data='{data}'")
        needs += [few for need in cfg.prepare if (few := [*need, *FEW.get(need[0], [])]) not in needs]
    prepare(needs, paths=cfg.paths)
    return data
