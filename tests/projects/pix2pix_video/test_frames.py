"""Reading a set: pixels as training sees them, and errors that name row, file and remedy."""

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from common.video.transform import resize
from projects.pix2pix_video.frames import EditFrames, FrameError, SetError
from tests.projects.pix2pix_video.edit_sources import make, write_guide

CLIPS = {"train": ["move_object/video_1", "drop_object/video_2"], "val": ["move_object/video_3"]}
HISTORY = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edits")
    make(write_guide(folder / "media", CLIPS), folder / "set", history=HISTORY)
    return folder


@pytest.fixture
def edits(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "edits"))


def opened(folder: Path, **changes: Any) -> EditFrames:
    settings: dict[str, Any] = {"split": "train", "size": 32, "history": HISTORY, **changes}
    return EditFrames(folder=str(folder / "set"), **settings)


def raw(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_pixels_are_history_then_target(made: Path) -> None:
    data = opened(made)
    assert len(data) == len(data.rows) == 2
    pixels = data.pixels(0)
    assert pixels.shape == (HISTORY + 1, 3, 32, 32)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels[:HISTORY], data.history_of(0))
    assert torch.equal(pixels[HISTORY], data.target_of(0))
    files = [made / "media" / name for name in (*data.rows[0].history, data.rows[0].target)]
    assert [file.stem for file in files] == ["17", "18", "19", "20"]
    expected = resize(np.stack([raw(file) for file in files]), 32, 32)
    assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), expected)


def test_the_centre_is_one_crop_for_all_frames(made: Path) -> None:
    data = opened(made, crop="centre", size=64)  # the frames are 64 x 96: nothing is resized
    files = [made / "media" / name for name in (*data.rows[0].history, data.rows[0].target)]
    expected = np.stack([raw(file)[:, 16:80] for file in files])
    assert np.array_equal(data.pixels(0).permute(0, 2, 3, 1).numpy(), expected)
    assert not torch.equal(data.pixels(0), opened(made, size=64).pixels(0))


def test_a_tall_picture_is_upright_by_its_tag(edits: Path) -> None:
    for path in (edits / "media/train/move_object/video_1").glob("*.jpg"):
        with Image.open(path) as image:
            exif = image.getexif()
            exif[0x0112] = 6  # turned
            image.save(path, exif=exif)
    shutil.rmtree(edits / "set")
    make(edits / "media", edits / "set", history=HISTORY)
    data = opened(edits, size=64, crop="centre")
    turned = np.rot90(raw(edits / "media/train/move_object/video_1/19.jpg"), -1)
    assert np.array_equal(data.pixels(0)[-2].permute(1, 2, 0).numpy(), turned[16:80])


def test_the_fingerprint_follows_the_rows_and_the_targets(made: Path, edits: Path) -> None:
    before = opened(made).fingerprint
    assert opened(edits).fingerprint == before
    assert opened(made, split="val").fingerprint != before

    def rebuilt(**changes: Any) -> str:
        found = datasets.load_from_disk(str(made / "set"))
        columns = {**found["train"].cast_column("edited_image", datasets.Image(decode=False)).to_dict(), **changes}
        train = datasets.Dataset.from_dict(columns, features=found["train"].features)
        shutil.rmtree(edits / "set")
        datasets.DatasetDict({"train": train}).save_to_disk(str(edits / "set"))
        return opened(edits).fingerprint

    assert rebuilt() == before
    assert rebuilt(edit_prompt=["one", "two"]) != before
    assert rebuilt(task=["x", "y"]) != before
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="PNG")
    assert rebuilt(edited_image=[{"bytes": buffer.getvalue(), "path": None}] * 2) != before


def _lost(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:600])


def _text(path: Path) -> None:
    path.write_text("nothing")


def _converted(mode: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        image = Image.open(path).convert(mode)
        image.save(path, format="JPEG" if mode in ("L", "CMYK") else "PNG")

    return spoil


def _smaller(path: Path) -> None:
    Image.open(path).resize((48, 32)).save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_lost, "no such file"),
        (_cut, "damaged image"),
        (_text, "not an image in any format that Pillow knows; fetch it again"),
        (_converted("L"), r"the image is grey \(mode L\), three channels are expected; write it anew"),
        (_converted("RGBA"), r"RGB with alpha \(mode RGBA\)"),
        (_converted("P"), r"a palette \(mode P\)"),
        (_converted("CMYK"), r"not RGB \(mode CMYK\)"),
        (_smaller, r"the frame is 48x32 and 17.jpg of its row 96x64"),
    ],
)
def test_a_bad_frame_is_an_error_with_row_file_and_remedy(
    spoil: Callable[[Path], None], message: str, edits: Path
) -> None:
    bad = edits / "media/train/move_object/video_1/18.jpg"
    spoil(bad)
    data = opened(edits)
    with pytest.raises(FrameError, match=message) as raised:
        data.pixels(0)
    assert raised.value.row == "train/move_object/video_1"
    assert Path(raised.value.file).resolve() == bad.resolve()
    assert "task=edit_check" in str(raised.value)
    with pytest.raises(FrameError):
        data.history_of(0)
    data.target_of(0)  # its own file is whole
    data.pixels(1)


def test_an_error_survives_the_way_out_of_a_worker(edits: Path) -> None:
    (edits / "media/train/move_object/video_1/18.jpg").unlink()
    data = opened(edits)

    class Pixels(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, number: int) -> torch.Tensor:
            return data.pixels(number)

    error = FrameError("row", "file", "reason")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    with pytest.raises((FrameError, RuntimeError), match="no such file"):
        list(DataLoader(Pixels(), batch_size=None, num_workers=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"history": 20}, "has histories of 3 frames, and 20 are asked for; make a set with .* task.history=20"),
        ({"split": "test"}, r"has no split test, it has train, val; make it with task.merge=\[test\]"),
        ({"crop": "left"}, "crop='left'"),
        ({"size": 0}, "size=0"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(changes: dict[str, Any], message: str, made: Path) -> None:
    with pytest.raises(ValueError, match=message):
        opened(made, **changes)


def test_a_folder_without_a_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetError, match=r"holds no set of edits; make it with .* task=edit_frames"):
        opened(tmp_path)


def foreign(made: Path, folder: Path, **changes: Any) -> Path:
    """The guide's three columns alone, with absolute paths, as its own script writes them."""
    media = made / "media" / "train" / "move_object" / "video_1"
    rows: dict[str, Any] = {
        "input_frames": [[str(media / f"{number:02d}.jpg") for number in range(HISTORY)]],
        "edit_prompt": ["go"],
        "edited_image": [str(media / "20.jpg")],
        **changes,
    }
    features = {
        "input_frames": datasets.List(datasets.Value("string"), length=HISTORY),
        "edit_prompt": datasets.Value("string"),
        "edited_image": datasets.Image(),
    }
    kept = {name: value for name, value in rows.items() if value is not None}
    used = datasets.Features({name: features[name] for name in kept})
    split = datasets.Dataset.from_dict(kept, features=used)
    datasets.DatasetDict({"train": split}).save_to_disk(str(folder / "set"))
    return folder


@pytest.mark.parametrize("word", ["List", "Sequence"])
def test_a_set_of_the_guides_own_script_opens(word: str, made: Path, tmp_path: Path) -> None:
    folder = foreign(made, tmp_path)
    info = folder / "set" / "train" / "dataset_info.json"
    content = json.loads(info.read_text())
    content["features"]["input_frames"]["_type"] = word  # as versions before 4 spell it
    info.write_text(json.dumps(content))
    data = opened(folder)
    assert data.rows[0].id == "train/000000"
    assert (data.rows[0].instruction, data.rows[0].task, data.rows[0].pair) == ("go", "", "")
    assert data.pixels(0).shape == (HISTORY + 1, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edit_prompt": None}, "no column edit_prompt"),
        ({"edited_image": None}, "no column edited_image"),
        ({"input_frames": None}, "no column input_frames"),
    ],
)
def test_a_set_without_the_guides_columns_is_refused(
    changes: dict[str, Any], message: str, made: Path, tmp_path: Path
) -> None:
    with pytest.raises(SetError, match=message):
        opened(foreign(made, tmp_path, **changes))


def test_a_row_without_an_instruction_is_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="row train/000000: edit_prompt: is empty"):
        opened(foreign(made, tmp_path, edit_prompt=[""]))
