"""A tiny run samples its validation captions after each validation, and trains as it would without."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.files import read_jsonl
from common.loggers import read_metrics
from common.video.decode import read
from launchers import generate, train
from launchers.command import compose, prepare

SMALL = [
    "experiment=text_to_video_joint_tiny",
    "prepare=[]",
    "steps=2",
    "validate_every=1",
    "batch.global=4",
    "batch.micro=4",
    "batch.eval=4",
    "model.sampled=1",
    "model.sampling.steps=2",
    "callbacks.metrics_log.every=1",
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a few captioned clips and their latents."""
    data = tmp_path_factory.mktemp("data")
    root = f"task.root='{data}/shapes_video'"
    drawn = ["task=shapes", root, "task.clips={train:8,val:6,test:4}", "task.parts=[captions]", "task.size=32"]
    encoded = ["task=video_latents_tiny", "task.num_workers=0", "task.checked=1", "task.devices=[cpu]"]
    prepare([drawn, encoded], paths=compose(*SMALL, f"paths.data='{data}'", "paths.run=.").paths)
    return data


@pytest.fixture(scope="module")
def run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that shows clips."""
    return trained(clips, tmp_path_factory.mktemp("run"), "callbacks=[ema,clips]", "callbacks.clips.count=2")


def difference(video: str | Path, frames: NDArray[np.uint8]) -> float:
    """Mean absolute difference of a clip to frames, of 255."""
    return float(np.abs(read(str(video), range(16)).frames.astype(int) - frames).mean())


def trained(clips: Path, folder: Path, *more: str) -> Path:
    train.main(compose(*SMALL, f"paths.data='{clips}'", f"paths.run='{folder}'", *more))
    return folder


def test_each_validation_writes_captions_truths_and_samples(run: Path, clips: Path) -> None:
    steps = ("step_0000001", "step_0000002")
    names = [name for step in steps for name in (f"{step}.png", f"{step}_row_0000.mp4", f"{step}_row_0001.mp4")]
    assert sorted(path.name for path in (run / "samples").iterdir()) == names
    first = read(run / "samples" / names[1], range(16)).frames
    assert first.shape == (16, 32, 32, 3)


def test_training_and_scores_are_the_same_without(run: Path, clips: Path, tmp_path: Path) -> None:
    plain = trained(clips, tmp_path)
    assert not (plain / "samples").exists()
    told = [
        {name: steps for name, steps in read_metrics(folder / "metrics.csv").items() if "time" not in name}
        for folder in (run, plain)
    ]
    compared = [name for name in told[0] if "loss" in name or name.startswith("val/")]
    assert {"val/loss", "val/joint"} <= set(compared)
    assert [told[0][name] for name in compared] == [told[1][name] for name in compared]


def test_a_sample_is_what_generate_makes_of_the_averaged_weights(run: Path, clips: Path, tmp_path: Path) -> None:
    rows = [row for row in read_jsonl(clips / "shapes_video" / "latents" / "val" / "clips.jsonl") if not row["novel"]]
    row = next(row for row in rows if row["caption"].count(" moves ") == 1)
    asked = tmp_path / "asked.json"
    named = tmp_path / "vbench" / f"{row['caption']}-0.mp4"
    lines = [{"id": row["id"]}, {"id": named.stem, "file": str(named)}]
    asked.write_text(json.dumps([{"prompt": row["caption"], **line} for line in lines]))
    where = [f"paths.data='{clips}'", f"paths.run='{tmp_path}'", f"ckpt={run}", f"request.file='{asked}'"]
    generate.main(compose(*SMALL, *where, "callbacks=ema"))
    made, other = read_jsonl(tmp_path / "generated.jsonl")
    shown = read(run / "samples" / "step_0000002_row_0000.mp4", range(16)).frames
    assert difference(made["video"], shown) < 0.2  # not 0: two clips at once round otherwise than one
    assert other["video"] == str(named)
    assert difference(named, shown) > 2  # another name, another noise
    assert [path.name for path in named.parent.iterdir()] == [named.name]
