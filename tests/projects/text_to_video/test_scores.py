"""Whether a clip shows what its caption says, on clips that are drawn and on spoiled ones."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from common.encoders.clip_score import ClipSimilarity
from common.shapes_world.language import caption
from common.shapes_world.render import render
from common.shapes_world.scene import Scene, draw_scene
from projects.text_to_video.scores import ClipScores, Told, hits, things_of


def scenes(count: int, *, things: int | None = None) -> list[Scene]:
    drawn = [draw_scene(seed=3, split="test", index=index, size=32) for index in range(4 * count)]
    return [scene for scene in drawn if things in (None, len(scene.things))][:count]


def clip_of(scene: Scene) -> Tensor:
    return torch.from_numpy(render(scene)).permute(0, 3, 1, 2)


def test_captions_are_read() -> None:
    text = "a red square moves left and a blue ring moves up; the red square appears first"
    assert things_of(text) == [Told("red", "square", "left"), Told("blue", "ring", "up")]
    for scene in scenes(20):
        assert [(t.colour, t.shape, t.direction) for t in scene.things] == [
            (t.colour, t.shape, t.direction) for t in things_of(caption(scene))
        ]
    with pytest.raises(ValueError, match="no caption of the built-in world"):
        things_of("a dog runs")


@pytest.mark.parametrize("things", [1, 2])
def test_true_clips_show_everything(things: int) -> None:
    found = [hits(clip_of(scene), caption(scene)) for scene in scenes(20, things=things)]
    assert np.mean([each["joint"] for each in found]) >= 0.95


def test_each_attribute_is_missed_by_itself() -> None:
    for scene in scenes(10, things=1):
        (thing,) = scene.things
        clip, opposite = clip_of(scene), {"left": "right", "right": "left", "up": "down", "down": "up"}
        other = {"red": "green", "green": "blue"}.get(thing.colour, "red")
        told = f"a {other} {thing.shape} moves {thing.direction}"
        assert hits(clip, told) == {"colour": False, "shape": True, "direction": True, "joint": False}
        told = f"a {thing.colour} {thing.shape} moves {opposite[thing.direction]}"
        assert hits(clip, told) == {"colour": True, "shape": True, "direction": False, "joint": False}
        assert hits(clip.flip(0), told)["direction"]


def test_a_clip_without_objects_misses_all() -> None:
    empty = torch.full((16, 3, 32, 32), 30, dtype=torch.uint8)
    assert not any(hits(empty, "a red square moves left").values())


def test_shares_by_view_and_chance() -> None:
    scores = ClipScores(world=True, clip=partial(ClipSimilarity, weights="common/tiny/weights/clip"))
    scores.start(["real", "novel"], torch.device("cpu"))
    first, second = scenes(2, things=1)
    clips = torch.stack([clip_of(first), clip_of(second)])
    scores.update("real", ids=["a", "b"], captions=[caption(first), caption(first)], clips=clips)
    scores.update("novel", ids=["a"], captions=[caption(first)], clips=clips[:1])
    logged, report = scores.finish(), scores.report()
    assert report["real"]["joint"].cases == 2
    assert logged["joint"] == report["real"]["joint"].value == pytest.approx(0.5)
    assert report["novel"]["joint"].value == 1.0
    assert -1 <= report["real"]["clip_similarity"].low <= report["real"]["clip_similarity"].value <= 1
    assert report["chance"]["joint"] == pytest.approx(1 / 96)
