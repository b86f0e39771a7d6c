"""Tables, and the place of a page that they are written to."""

from pathlib import Path

import pytest

from common.memory.recipe import paths_of, unloaded
from common.memory.table import BEGIN, END, grid, size, write


def test_columns_line_up() -> None:
    lines = grid([("part", "bytes"), ("weights", "1.0 GB"), ("x", "(12.0 GB)")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ------- | --------: |"


def test_sizes_are_told_in_units_that_can_be_read() -> None:
    assert [size(16.28e9), size(0.16e9), size(3.4e6)] == ["16.3 GB", "0.2 GB", "3.4 MB"]


def test_only_the_marked_part_of_a_page_changes(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for text in ("new", "newer"):
        write(page, text)
        assert page.read_text() == f"before\n{BEGIN}\n{text}\n{END}\nafter\n"


def test_a_page_without_the_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    for text in ("nothing", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN}"):
        page.write_text(text)
        with pytest.raises(ValueError, match="needs one line"):
            write(page, "new")
        assert page.read_text() == text
    with pytest.raises(ValueError, match="is not there"):
        write(tmp_path / "other.md", "new")


def test_a_recipe_that_reads_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 8}')
    node = {
        "lr": 1.0,
        "model": {"weights": "some/hub-id", "architecture": {"a": 1}, "vision": "x", "quantize": True},
        "parts": [{"weights": str(tmp_path), "architecture": {"a": 1}}, {"weights": "kept"}],
    }
    assert unloaded(node) == {
        "lr": 1.0,
        "model": {"weights": "random", "architecture": {"a": 1}, "vision": None, "quantize": False},
        "parts": [
            {"weights": "random", "architecture": {"model_type": "llama", "hidden_size": 8}},
            {"weights": "kept"},
        ],
    }
    assert paths_of(node, "quantize", "model.") == ["model.model.quantize"]


def test_a_part_of_a_pipeline_has_the_architecture_of_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "x", "channels": 4}')
    part = {"weights": str(tmp_path), "architecture": None, "tokenizer": None}
    found = unloaded({"unet": part, "stage1": "outputs/first"})
    expected = {"weights": "random", "architecture": {"channels": 4}, "tokenizer": str(tmp_path)}
    assert found == {"unet": expected, "stage1": "random"}
    assert unloaded({"unet": {**part, "quantize": True}}, off={})["unet"]["quantize"] is True
