"""Probes of pictures and clips; where examples come from."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.video.write import write_h264
from projects.genhancer.benchmarks.labelled import ClassFolders, ShapesDirections, SomethingSomething
from projects.genhancer.benchmarks.outcome import BenchmarkError
from projects.genhancer.benchmarks.probe import Probe, pooled
from projects.genhancer.benchmarks.reader import Preprocess, Reader
from tests.projects.genhancer.benchmarks.towers import Grey, grey_reader, write_grey


class Place(Grey):
    """Sees where what is not grey lies: its mean column and row."""

    image_size = 64

    def images(self, pixels: Tensor) -> Tensor:
        values = pixels.float()
        colour = (values.amax(dim=1) - values.amin(dim=1)).clamp(min=30) - 30
        total = colour.sum(dim=(1, 2)) + 1e-3
        places = torch.arange(64) / 63 - 0.5
        x, y = (colour.sum(dim=1) @ places) / total, (colour.sum(dim=2) @ places) / total
        return torch.stack([x, y, torch.ones_like(x)], dim=1)


def place_reader() -> Reader:
    return Reader(Place(), preprocess=Preprocess(folder=None, family="clip", image_size=64), batch=16, workers=2)


def test_the_direction_of_motion_is_in_the_order_of_frames_but_not_in_their_mean(world: Path) -> None:
    source = ShapesDirections(root=str(world))
    probe = Probe(source=source, frames=4, poolings=["mean", "concat"], neighbours=5, grouped=True)
    assert json.dumps(probe.identity())
    outcome = probe.run(place_reader())
    report = outcome.report()
    assert report["linear/concat"]["all"].value >= 0.9
    assert report["neighbours/concat"]["all"].value >= 0.7
    # What knows the axis at best has half.
    assert report["linear/mean"]["all"].value <= 0.75
    assert set(report["linear/mean"]) == {"all", *{example.label for example in source.parts["test"]}}
    assert outcome.chance["linear/mean"] == 0.25
    assert not outcome.left_out


def test_only_clips_of_one_object_have_a_direction(world: Path) -> None:
    parts = ShapesDirections(root=str(world)).parts
    rows = [json.loads(line) for line in (world / "clips.jsonl").read_text().splitlines()]
    single = {row["id"]: row["things"][0]["direction"] for row in rows if len(row["things"]) == 1}
    assert {e.id: e.label for part in parts.values() for e in part} == single
    assert {e.id.split("/")[0] for e in parts["test"]} == {"test"}
    with pytest.raises(BenchmarkError, match="no clip of one object in val"):
        ShapesDirections(root=str(world), judge_on="val").identity()
    with pytest.raises(BenchmarkError, match=r"clips\.jsonl is not there"):
        ShapesDirections(root=str(world / "pairs")).identity()


def test_poolings() -> None:
    embeddings = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    assert pooled(embeddings, "mean").tolist() == [[0.5, 0.5]]
    assert pooled(embeddings, "concat").tolist() == [[1, 0, 0, 1]]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for part, levels in (("train", (0, 30, 60, 90)), ("test", (10, 80))):
        for level in levels:
            write_grey(tmp_path / part / "dark" / f"{level}.png", level)
            write_grey(tmp_path / part / "light" / "deep" / f"{level}.png", 255 - level)
    return tmp_path


def test_pictures_in_folders_of_classes(folders: Path) -> None:
    probe = Probe(source=ClassFolders(folder=str(folders)), neighbours=3)
    probe.identity()
    outcome = probe.run(grey_reader())
    assert {name: groups["all"].value for name, groups in outcome.report().items()} == {
        "neighbours/mean": 1.0,
        "linear/mean": 1.0,
    }
    assert [row["label"] for row in outcome.answers] == ["dark", "dark", "light", "light"]
    assert [row["linear/mean"] for row in outcome.answers] == ["dark", "dark", "light", "light"]


def test_what_cannot_be_read_is_listed_and_past_a_limit_refused(folders: Path) -> None:
    (folders / "train" / "dark" / "bad.png").write_bytes(b"no picture")
    probe = Probe(source=ClassFolders(folder=str(folders)), max_failed=0.2, neighbours=3)
    left_out = probe.run(grey_reader()).left_out
    assert [Path(file).name for file in left_out] == ["bad.png"]
    with pytest.raises(BenchmarkError, match=r"1 of 9 files of ClassFolders train .*bad\.png: .*not an image"):
        Probe(source=ClassFolders(folder=str(folders))).run(grey_reader())


def test_a_clip_that_is_too_short_is_not_stretched(folders: Path) -> None:
    with pytest.raises(BenchmarkError, match="2 different frames asked of a clip of 1"):
        Probe(source=ClassFolders(folder=str(folders)), frames=2).run(grey_reader())


def test_an_unknown_class_and_settings_are_refused(folders: Path) -> None:
    write_grey(folders / "test" / "grey" / "a.png", 128)
    source = ClassFolders(folder=str(folders))
    with pytest.raises(BenchmarkError, match="no example of 'grey' to learn from"):
        Probe(source=source).identity()
    with pytest.raises(ValueError, match="poolings"):
        Probe(source=source, poolings=["max"])
    with pytest.raises(BenchmarkError, match="holds no pictures or videos"):
        ClassFolders(folder=str(folders / "train")).identity()


TEMPLATES = {"Moving something up": "1", "Pushing something": "0"}


def something(root: Path, *, each: Sequence[int]) -> dict[str, str]:
    """The official layout with clips that get lighter (up) or darker."""
    (root / "labels.json").write_text(json.dumps(TEMPLATES))
    number = 0
    for name, count in zip(("train", "validation"), each, strict=True):
        rows = []
        for _ in range(count):
            for template in ("Moving [something] up", "Pushing [something]"):
                number += 1
                levels = np.linspace(40, 200, 6) if "up" in template else np.linspace(200, 40, 6)
                frames = np.repeat(levels + number, 16 * 16 * 3).reshape(6, 16, 16, 3).astype(np.uint8)
                write_h264(root / "videos" / f"{number}.webm", frames, fps=12, crf=10)
                rows.append({"id": str(number), "label": "x", "template": template, "placeholders": ["a"]})
        (root / f"{name}.json").write_text(json.dumps(rows))
    return {
        "videos": str(root / "videos"),
        "labels": str(root / "labels.json"),
        "train": str(root / "train.json"),
        "test": str(root / "validation.json"),
    }


def test_something_something_by_template(tmp_path: Path) -> None:
    files = something(tmp_path, each=(4, 2))
    source = SomethingSomething(**files, train_each=None, test_each=None, seed=0)
    assert {e.label for e in source.parts["train"]} == set(TEMPLATES)
    probe = Probe(source=source, frames=3, poolings=["concat", "mean"], neighbours=3)
    probe.identity()
    report = probe.run(grey_reader()).report()
    assert report["linear/concat"]["all"] == (1.0, *report["linear/concat"]["all"][1:])
    assert report["neighbours/concat"]["all"].value == 1


def test_clips_are_drawn_label_by_label(tmp_path: Path) -> None:
    files = something(tmp_path, each=(5, 1))
    all_of = SomethingSomething(**files, train_each=None, test_each=1, seed=0).parts["train"]
    few = [SomethingSomething(**files, train_each=2, test_each=1, seed=seed).parts["train"] for seed in range(4)]
    for drawn in few:
        assert [e.label for e in drawn] == ["Moving something up"] * 2 + ["Pushing something"] * 2
        assert set(drawn) <= set(all_of)
    assert len({tuple(drawn) for drawn in few}) > 1
    with pytest.raises(ValueError, match="train_each=0"):
        SomethingSomething(**files, train_each=0, test_each=1, seed=0)


def test_a_test_file_without_templates_and_a_missing_clip_are_told(tmp_path: Path) -> None:
    files = something(tmp_path, each=(1, 1))
    (tmp_path / "videos" / "1.webm").unlink()
    with pytest.raises(BenchmarkError, match=r"1\.webm is not there"):
        SomethingSomething(**files, train_each=1, test_each=1, seed=0).identity()
    (tmp_path / "validation.json").write_text('[{"id": "9"}]')
    with pytest.raises(BenchmarkError, match=r"validation\.json row 0: template '' is not in"):
        _ = SomethingSomething(**files, train_each=1, test_each=1, seed=0).parts
