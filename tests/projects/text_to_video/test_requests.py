"""What a user asks for: rows of files, their names, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from projects.text_to_video.output import write_clip
from projects.text_to_video.requests import Captions


def asked(tmp_path: Path, rows: Any) -> Captions:
    file = tmp_path / "asked.json"
    file.write_text(json.dumps(rows))
    request = {"prompt": None, "video": None, "file": str(file), "count": 6}
    return Captions(request=request, table="absent", frames=12, fps=8.0, size=[16, 16], latent=[4, 2, 2])


def test_rows_may_name_the_file_that_is_written(tmp_path: Path) -> None:
    place = str(tmp_path / "out" / "a dog-0.mp4")
    rows = asked(tmp_path, [{"prompt": "a dog", "file": place}, {"prompt": "a cat", "id": "cat"}])
    batch = rows.collate(rows.asked)
    assert batch.ids == ("0", "cat")
    assert batch.files == (place, "")
    clips = torch.zeros(2, 3, 3, 16, 16, dtype=torch.uint8)
    told = [
        write_clip(tmp_path / "generated", name, clip, fps=8.0, file=file)
        for name, file, clip in zip(batch.ids, batch.files, clips, strict=True)
    ]
    assert told[0] == {"video": place}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a dog-0.mp4"]
    assert sorted(path.name for path in (tmp_path / "generated").iterdir()) == ["cat.gif", "cat.mp4"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": ""}], r"asked\.json: a list of"),
        ([], r"asked\.json asks for nothing"),
        ([{"prompt": "a", "file": "a.gif"}], r"row 1: file=a\.gif is written as MP4"),
        ([{"prompt": "a", "id": "x y"}, {"prompt": "b", "id": "x-y"}], r'"x y" and "x-y" would both be written to x-y'),
        ([{"prompt": "a", "file": "a.mp4"}, {"prompt": "b", "file": "a.mp4"}], r"both be written to a\.mp4"),
        ([{"prompt": "a", "first": "a.png"}, {"prompt": "b"}], r"all captions have a first frame, or none"),
    ],
)
def test_what_cannot_be_generated_is_refused(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(tmp_path, rows)
