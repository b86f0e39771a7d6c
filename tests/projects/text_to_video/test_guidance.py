"""Guidance by caption and context: four branches, what they collapse to, and rescaling by clip."""

from functools import partial
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from torch import Tensor

from common.config import build
from common.latent.guidance import rescale
from launchers.command import compose
from projects.text_to_video.chunks import Chunks
from projects.text_to_video.distributed import Distributed
from projects.text_to_video.frame_by_frame import FrameByFrame
from projects.text_to_video.guidance import (
    BOTH,
    CONTEXT,
    NONE,
    TEXT,
    Branch,
    Guidance,
    branches,
    combine,
    refuse_context,
)
from projects.text_to_video.joint import Joint


def predictions() -> dict[Branch, Tensor]:
    source = torch.Generator().manual_seed(0)
    return {branch: torch.randn(2, 3, 4, 2, 2, generator=source) for branch in (NONE, TEXT, CONTEXT, BOTH)}


def test_the_four_branches_as_published() -> None:
    """Guidance by the context, of predictions that are each guided by the caption."""
    found = predictions()
    without = found[NONE] + 8.0 * (found[TEXT] - found[NONE])
    with_context = found[CONTEXT] + 8.0 * (found[BOTH] - found[CONTEXT])
    wanted = without + 1.1 * (with_context - without)
    torch.testing.assert_close(combine(found, Guidance()), wanted, atol=1e-4, rtol=1e-4)


def test_context_scale_1_is_plain_guidance_with_the_context() -> None:
    found, guidance = predictions(), Guidance(text_scale=8.0, context_scale=1.0)
    assert branches(guidance) == [CONTEXT, BOTH]
    wanted = found[CONTEXT] + 8.0 * (found[BOTH] - found[CONTEXT])
    torch.testing.assert_close(combine(found, guidance), wanted, atol=1e-5, rtol=1e-5)


def test_scales_1_are_the_prediction_itself() -> None:
    found, guidance = predictions(), Guidance(text_scale=1.0, context_scale=1.0)
    assert branches(guidance) == [BOTH]
    assert torch.equal(combine({BOTH: found[BOTH]}, guidance), found[BOTH])


@pytest.mark.parametrize(
    ("text_scale", "context_scale", "wanted"),
    [(8.0, 1.1, [NONE, TEXT, CONTEXT, BOTH]), (1.0, 1.1, [TEXT, BOTH]), (8.0, 0.0, [NONE, TEXT]), (0.0, 0.0, [NONE])],
)
def test_branches_that_do_not_count_are_left_out(text_scale: float, context_scale: float, wanted: list[Branch]) -> None:
    assert branches(Guidance(text_scale=text_scale, context_scale=context_scale)) == wanted


def test_rescaling_takes_one_deviation_for_a_clip() -> None:
    found = predictions()
    plain = combine(found, Guidance())
    assert BOTH in branches(Guidance(context_scale=0.0, rescale=0.7))
    guided = combine(found, Guidance(rescale=0.7))
    torch.testing.assert_close(guided, rescale(plain, found[BOTH], 0.7))
    ratios = (guided / plain).flatten(1)
    assert float(ratios[0].std()) < 1e-4 < float((ratios[0] - ratios[1]).abs().mean())  # by clip, not by frame


@pytest.mark.parametrize("kind", [Joint, Chunks])
def test_a_kind_without_context_says_so(kind: Any) -> None:
    refuse_context(Guidance(context_scale=1.0), kind=kind)
    for each in (kind, partial(kind, train_spatial=True)):
        with pytest.raises(ValueError, match=rf"context_scale=1\.1 .*but {kind.__name__} has no context.*set it to 1"):
            refuse_context(Guidance(), kind=each)


@pytest.mark.parametrize("kind", [Distributed, FrameByFrame])
def test_a_kind_with_context_takes_any_scale(kind: Any) -> None:
    refuse_context(Guidance(context_scale=3.0), kind=partial(kind, frames=4))


@pytest.mark.parametrize("experiment", ["text_to_video_joint_tiny", "text_to_video_chunks_tiny"])
def test_the_module_refuses_a_context_before_anything_is_built(experiment: str) -> None:
    scale = "model.sampling.guidance.context_scale=1.5"
    cfg = compose(f"experiment={experiment}", "paths.run=.", scale, "model.kind.unet.weights=not/there")
    with pytest.raises(InstantiationException, match=r"sampling\.guidance\.context_scale=1\.5"):
        build(cfg.model)


def test_an_unknown_share_of_rescaling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rescale=2"):
        Guidance(rescale=2.0)
