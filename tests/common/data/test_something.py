"""Label files of Something-Something V2."""

import json
from pathlib import Path

import pytest

from common.data.something import LabelError, LabelRow, read_labels, without_brackets


def test_rows_with_and_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    template = "Putting [something] onto [something]"
    path.write_text(json.dumps([{"id": "7", "label": "putting a onto b", "template": template}, {"id": 8}]))
    assert read_labels(path) == [
        LabelRow("7", "putting a onto b", template, f"{path} row 0"),
        LabelRow("8", None, None, f"{path} row 1"),
    ]
    assert without_brackets(template) == "Putting something onto something"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is not there"), ("[", "is not JSON"), ("{}", "is not a list"), ('[{"label": "x"}]', "is not a list")],
)
def test_files_that_are_none(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "labels.json").write_text(content)
    with pytest.raises(LabelError, match=message):
        read_labels(tmp_path / "labels.json")
