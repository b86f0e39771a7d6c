"""What is asked for is what is rebuilt: rows of a set, a picture, a list; and grids of it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.types import Pick
from projects.genhancer.crops import Crops
from projects.genhancer.data import Images
from projects.genhancer.media import ImageFolder
from projects.genhancer.output import GAP, write_grid
from projects.genhancer.requests import Requests

NOTHING: dict[str, Any] = {"video": None, "prompt": None, "file": None, "media": None, "count": 2}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((20, 20, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    return folder


def requests(pictures: Path, **changes: Any) -> Requests:
    middle = Crops(area=[1, 1], aspect=[1, 1], count=1)
    rows = partial(
        Images,
        media=partial(ImageFolder, folder=str(pictures)),
        split="val",
        size=16,
        target=8,
        latent=[4, 4, 4],
        crops=middle,
        latents=None,
        embeddings=None,
        pictures=True,
        seed=0,
    )
    return Requests(request={**NOTHING, **changes}, rows=rows)


def values(data: Requests) -> dict[str, int]:
    """The grey of each row's target, which its condition has too."""
    batch = data.collate([data[Pick(number, number, 1.0)] for number in range(len(data))])
    assert batch.conditions is not None
    assert batch.target is not None
    assert batch.conditions.shape[1:] == (1, 3, 16, 16)
    assert batch.target.shape[1:] == (3, 8, 8)
    found = batch.target.amax(dim=(1, 2, 3))
    assert torch.equal(found, batch.conditions.amin(dim=(1, 2, 3, 4)))
    return {data.name(number): int(found[number]) for number in range(len(data))}


def test_rows_of_the_set(pictures: Path) -> None:
    assert values(requests(pictures)) == {"0.png": 0, "1.png": 40}


def test_one_picture(pictures: Path) -> None:
    assert values(requests(pictures, video=str(pictures / "2.png"))) == {"2.png": 80}


def test_a_list_of_pictures(pictures: Path, tmp_path: Path) -> None:
    asked = [{"video": "2.png", "id": "last"}, {"video": "1.png"}]
    (pictures / "asked.json").write_text(json.dumps(asked))
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    wanted = {"last": 80, "1.png": 40}
    assert values(requests(pictures, file=str(pictures / "asked.json"))) == wanted
    assert values(requests(pictures, file=str(tmp_path / "asked.jsonl"), media=str(pictures))) == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "a cat"}, "nothing is told in words"),
        ({"video": "a", "file": "b"}, "give one of them"),
    ],
)
def test_a_request_of_another_form_is_refused(changes: dict[str, Any], message: str, pictures: Path) -> None:
    with pytest.raises(ValueError, match=message):
        requests(pictures, **changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "a list of"),
        ('[{"image": "a"}]', "a list of"),
        ('[{"video": "a"}, {"video": "a"}]', "two rows have one id"),
    ],
)
def test_a_file_of_another_form_is_refused(content: str, message: str, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        requests(pictures, file=str(tmp_path / "asked.json"))


def test_a_grid_shows_conditions_target_round_trip_and_reconstructions(tmp_path: Path) -> None:
    def grey(value: int, size: int, *count: int) -> torch.Tensor:
        return torch.full((*count, 3, size, size), value, dtype=torch.uint8)

    shown = {"conditions": grey(10, 48, 2), "target": grey(20, 32), "round_trip": grey(30, 32)}
    path = write_grid(tmp_path, 3, "a/b c.jpg", **shown, rebuilt=grey(40, 32, 3))
    assert Path(path).name == "0003_a-b-c.jpg.png"
    page = np.asarray(Image.open(path))
    assert page.shape[0] == 96
    line = [value for value in page[48, :, 0].tolist() if value != 255]
    assert line == [value for value in (10, 10, 20, 30, 40, 40, 40) for _ in range(96)]
    assert page.shape[1] > 7 * 96 + 4 * GAP
