"""Latents of earlier code: read safely, cut to their true length, in a cache that says what was assumed."""

import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from common.data.cache import StaleCacheError
from common.disk import DiskSpaceError
from common.files import read_jsonl
from common.latent.vae import load_codec
from projects.text_to_video.import_latents import import_latents
from projects.text_to_video.old_latents import OldLatentError, read_old
from projects.text_to_video.video_latents import latent_settings, open_video_latents

CODEC = partial(
    load_codec,
    weights="random",
    architecture={
        "block_out_channels": [8, 16],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
    },
)
SHAPE = (8, 4, 8, 8)
SPREAD = 1 / 0.18215  # of unscaled latents
LENGTHS = (8, 8, 5, 8, 2)


def write_old(folder: Path) -> list[torch.Tensor]:
    """Files as the published code wrote them, beside its log."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    latents = []
    for number, length in enumerate(LENGTHS):
        latent = SPREAD * torch.randn(SHAPE, generator=generator)
        latent[length:] = 0
        latents.append(latent)
        torch.save({"latent": latent, "caption": f"clip {number}", "length": length}, folder / str(number + 8))
    (folder / "log.csv").write_text("filename,caption,mp4,length\n")
    return latents


def run(folder: Path, cache: Path, **changes: Any) -> dict[str, float]:
    settings: dict[str, Any] = {"codec": CODEC, "scaled": False, "fps": 16.0, "size": [16, 16], "frames": 8}
    settings |= {"crop": "squash", "min_frames": 4, "dtype": "bfloat16", "shard_mib": 0.008, "holdout": {}, "seed": 0}
    settings |= {"max_failed": 0.0, "num_workers": 0}
    return import_latents(folder=str(folder), cache=str(cache), **settings | changes)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_clips_keep_their_numbers_rounded_and_lose_their_zeros(tmp_path: Path) -> None:
    latents = write_old(tmp_path / "old")
    figures = run(tmp_path / "old", tmp_path / "new")
    assert figures.pop("spread") == pytest.approx(1.0, abs=0.1)
    assert figures == {"clips imported": 4, "shards made": 2, "clips": 4, "short": 1, "unreadable": 0, "frames": 29,
                       "repeated frames": 0, "shards missing": 0}  # fmt: skip
    cache = open_video_latents(tmp_path / "new" / "train", settings=latent_settings(CODEC()) | {"fps": 16.0})
    assert [(row["id"], row["caption"], row["frames"]) for row in cache.rows] == [
        ("8", "clip 0", 8),
        ("9", "clip 1", 8),
        ("10", "clip 2", 5),
        ("11", "clip 3", 8),
    ]
    for row, latent, length in zip(cache.rows, latents, LENGTHS, strict=False):
        assert torch.equal(cache[row["id"]], latent[:length].bfloat16())
    [short] = read_jsonl(tmp_path / "new" / "train" / "skipped.jsonl")
    assert short["kind"] == "short"


def test_scaled_numbers_are_unscaled(tmp_path: Path) -> None:
    [first, *_] = write_old(tmp_path / "old")
    figures = run(tmp_path / "old", tmp_path / "new", scaled=True)
    cache = open_video_latents(tmp_path / "new" / "train", settings={})
    assert torch.equal(cache["8"], (first / CODEC().scaling_factor).bfloat16())
    assert figures["spread"] > 4


def test_an_unlikely_scaling_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_old(tmp_path / "old")
    run(tmp_path / "old", tmp_path / "right")
    assert not caplog.records
    run(tmp_path / "old", tmp_path / "wrong", scaled=True)
    assert "is task.scaled right" in caplog.text


@pytest.mark.parametrize("settings", [{"fps": 8.0}, {"crop": "centre"}, {"height": 32}, latent_settings(CODEC(seed=1))])
def test_a_run_that_assumes_otherwise_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    write_old(tmp_path / "old")
    run(tmp_path / "old", tmp_path / "new")
    with pytest.raises(StaleCacheError, match="made with other settings"):
        open_video_latents(tmp_path / "new" / "train", settings=settings)


def test_in_parts_with_processes_and_again_the_bytes_are_the_same(tmp_path: Path) -> None:
    write_old(tmp_path / "old")
    run(tmp_path / "old", tmp_path / "whole")
    assert run(tmp_path / "old", tmp_path / "parts", shard="1/2")["shards missing"] == 1
    (tmp_path / "parts" / "train" / "16x16x8" / ".shard_00000.safetensors.12345678.part").write_text("half")
    assert run(tmp_path / "old", tmp_path / "parts", num_workers=2)["clips imported"] == 2
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert run(tmp_path / "old", tmp_path / "parts")["clips imported"] == 0


def test_clips_are_held_out_by_their_name(tmp_path: Path) -> None:
    write_old(tmp_path / "old")
    figures = run(tmp_path / "old", tmp_path / "new", holdout={"val": 0.5}, min_frames=1)
    train, val = ({*open_video_latents(tmp_path / "new" / split, settings={})} for split in ("train", "val"))
    assert figures["clips"] == 5
    assert train | val == {"8", "9", "10", "11", "12"}
    assert train
    assert val
    assert not train & val


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def test_a_pickle_that_would_run_something_is_not_run(tmp_path: Path) -> None:
    write_old(tmp_path / "old")
    torch.save({"latent": Evil(tmp_path / "proof"), "caption": "x", "length": 8}, tmp_path / "old" / "8")
    (tmp_path / "old" / "9").write_bytes(pickle.dumps(Evil(tmp_path / "proof")))
    with pytest.raises(ValueError, match="2 of 5 clips cannot be read"):
        run(tmp_path / "old", tmp_path / "new")
    assert not (tmp_path / "proof").exists()
    assert run(tmp_path / "old", tmp_path / "new", max_failed=0.5)["clips"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no latent, caption, length"),
        ({"latent": torch.zeros(SHAPE), "caption": "x"}, "holds no latent, caption, length"),
        ({"latent": torch.zeros(4, 4, 8, 8), "caption": "x", "length": 4}, r"is \(4, 4, 8, 8\), and \(8, 4, 8, 8\)"),
        ({"latent": torch.zeros(SHAPE), "caption": "", "length": 4}, "has no caption"),
        ({"latent": torch.zeros(SHAPE), "caption": "x", "length": 0}, r"length=0 is none of 1 \.\. 8"),
        ({"latent": torch.zeros(SHAPE), "caption": "x", "length": 9}, "length=9"),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "1")
    with pytest.raises(OldLatentError, match=message):
        read_old(tmp_path / "1", shape=SHAPE)


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    write_old(tmp_path / "old")
    path = tmp_path / "old" / "8"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OldLatentError, match="cannot be read"):
        read_old(path, shape=SHAPE)


def test_a_length_may_be_a_tensor_and_the_format_an_old_one(tmp_path: Path) -> None:
    content = {"latent": torch.ones(SHAPE), "caption": "x", "length": torch.tensor(3)}
    torch.save(content, tmp_path / "1", _use_new_zipfile_serialization=False)
    assert read_old(tmp_path / "1", shape=SHAPE).latent.shape == (3, 4, 8, 8)


def test_a_full_disk_and_an_empty_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="named by a number"):
        run(tmp_path, tmp_path / "new")
    write_old(tmp_path / "old")
    monkeypatch.setattr("common.disk.free_bytes", lambda folder: 1000)
    with pytest.raises(DiskSpaceError, match="4 clips"):
        run(tmp_path / "old", tmp_path / "new")
