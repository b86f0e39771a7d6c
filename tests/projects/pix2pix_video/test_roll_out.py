"""Rolling out: each history ends with the newest prediction; what is written reads back."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.video.decode import read
from projects.pix2pix_video.requests import RequestBatch, Unreadable
from projects.pix2pix_video.roll_out import answer, file_name, roll_out, write_prediction


def encode(frames: Tensor) -> Tensor:
    """The grey level of each frame as its latent, one more than it is."""
    return frames[:, :, :1, :1, :1].float() + 1


def test_each_prediction_becomes_the_newest_frame() -> None:
    """A model that adds up its history: the sums of three numbers before, for each row by itself."""
    history = torch.tensor([[1, 2, 3], [0, 0, 1]], dtype=torch.uint8).view(2, 3, 1, 1, 1).expand(-1, -1, 3, 4, 4)
    steps, encoded = [], []

    def predict(modes: Tensor, step: int) -> Tensor:
        assert modes.shape == (2, 3, 1, 1, 1)
        steps.append(step)
        return (modes - 1).sum(dim=1).to(torch.uint8).expand(-1, 3, 4, 4)

    def counted(frames: Tensor) -> Tensor:
        encoded.append(frames.shape[1])
        return encode(frames)

    frames = roll_out(counted, predict, history, frames=4)
    assert frames.shape == (2, 4, 3, 4, 4)
    assert frames[:, :, 0, 0, 0].tolist() == [[6, 11, 20, 37], [1, 2, 4, 7]]
    assert steps == [0, 1, 2, 3]
    assert encoded == [3, 1, 1, 1]  # no frame twice, and not the last


def test_a_line_for_each_request(tmp_path: Path) -> None:
    history = torch.tensor([10, 20], dtype=torch.uint8).view(2, 1, 1, 1, 1).expand(-1, 3, 3, 16, 16)
    batch = RequestBatch(
        numbers=(0, 2),
        ids=("a", "b/c"),
        prompts=("go left", "stop"),
        history=history,
        frames=2,
        fps=12.0,
        unreadable=(Unreadable("x", "go", "is not there"),),
    )

    def predict(modes: Tensor, step: int) -> Tensor:  # ten more than the newest
        return (modes[:, -1] + 9).to(torch.uint8).expand(-1, 3, 16, 16)

    broken, first, second = answer(batch, encode, predict, folder=tmp_path)
    assert broken == {"id": "x", "prompt": "go", "error": "is not there"}
    assert (first["id"], first["prompt"], Path(first["frame"]).name) == ("a", "go left", "0000_a.png")
    assert (second["prompt"], Path(second["video"]).name) == ("stop", "0002_b-c.mp4")
    assert [int(read(line["frame"], [0]).frames.mean()) for line in (first, second)] == [20, 30]
    shown = read(second["video"], range(5)).frames.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(shown, [20, 20, 20, 30, 40], atol=3)
    only = batch._replace(history=None, numbers=(), ids=(), prompts=())
    assert answer(only, encode, predict, folder=tmp_path) == [broken]


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    levels = torch.tensor([10, 40, 80, 120, 200], dtype=torch.uint8).view(5, 1, 1, 1).expand(-1, 3, 16, 16)
    levels = levels.clone()
    levels[:, 0] = 0  # no red: channels are not mixed up
    found = write_prediction(tmp_path / "new", "name", levels[:3], levels[3:], fps=12.0)
    image = read(found["frame"], [0]).frames[0]
    assert np.array_equal(image, levels[3].permute(1, 2, 0).numpy())  # exact, and the next frame, not the last
    clip = read(found["video"], range(5))
    assert np.abs(clip.frames.astype(int) - levels.permute(0, 2, 3, 1).numpy()).max() <= 8
    np.testing.assert_allclose(np.diff(clip.seconds), 1 / 12, atol=1e-3)


def test_names_of_files() -> None:
    assert file_name(3, "test/drop/video 1.mp4") == "0003_test-drop-video-1.mp4"
    assert file_name(3, "../../etc") != file_name(4, "../../etc")
    assert "/" not in file_name(0, "../../etc")
    assert len(file_name(0, "x" * 500)) < 100
