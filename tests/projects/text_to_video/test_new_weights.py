"""New weights of every kind are those of its seed, whatever was drawn before; the base has a seed of its own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from projects.text_to_video.chunks import Chunks
from projects.text_to_video.distributed import Distributed
from projects.text_to_video.frame_by_frame import FrameByFrame
from projects.text_to_video.joint import Joint
from tests.projects.text_to_video.t2v_parts import tiny_unet

CONTEXT = {"frames": 6, "patch": 2, "depth": 1, "queries": 4, "heads": 2, "dim_head": 8, "width": 16, "targets": 2}
MOTION = {"motion": {"heads": 2}, "train_spatial": False}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "distributed": (Distributed, CONTEXT),
    "published": (Distributed, CONTEXT | {"published_init": True}),
    "frame by frame": (FrameByFrame, CONTEXT),
    "chunks": (Chunks, MOTION | {"window": 5, "context": 2}),
    "joint": (Joint, MOTION | {"frames": 6}),
}


def weights(name: str, *, seed: int, drawn: int) -> dict[str, Tensor]:
    kind, settings = KINDS[name]
    torch.manual_seed(drawn)
    torch.rand(drawn)
    before = torch.get_rng_state()
    made = kind(unet=tiny_unet, seed=seed, **settings)
    assert torch.equal(torch.get_rng_state(), before)
    return dict(made.state_dict())


@pytest.mark.parametrize("name", KINDS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    first, again, other = (weights(name, seed=seed, drawn=drawn) for seed, drawn in ((3, 1), (3, 7), (4, 1)))
    assert all(torch.equal(first[key], again[key]) for key in first)
    differing = {key for key in first if not torch.equal(first[key], other[key])}
    assert differing
    base = tiny_unet().state_dict()
    assert not any(key.removeprefix("unet.") in base for key in differing)
