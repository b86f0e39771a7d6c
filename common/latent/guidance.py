"""Classifier-free guidance with two conditions, a text and an image, and its rescaling.

All of it is linear in the prediction, so it holds for epsilon, v and x alike.
"""

from typing import NamedTuple

from torch import Tensor


class Shares(NamedTuple):
    """What each branch counts in the guided prediction; the three add up to 1."""

    none: float  # without text and image
    image: float  # with the image alone
    both: float


def shares(text_scale: float, image_scale: float) -> Shares:
    """Coefficients of the branches: equation 3 of arXiv:2211.09800, sorted by branch.

    e = e(0,0) + s_I (e(0,I) - e(0,0)) + s_T (e(T,I) - e(0,I)). A branch whose share is zero need not be computed: with
    s_T = s_I = 1 only the one with both conditions counts, with s_I = 1 the one without any does not, and with
    s_T = s_I the one with the image alone does not.

    Args:
        text_scale: s_T.
        image_scale: s_I.
    """
    return Shares(none=1.0 - image_scale, image=image_scale - text_scale, both=text_scale)


def two_scale(
    e_none: Tensor | None, e_image: Tensor | None, e_both: Tensor | None, text_scale: float, image_scale: float
) -> Tensor:
    """The guided prediction; `shares` says which branches it is made of.

    Args:
        e_none: prediction without conditions, (B, ...); None where its share is zero.
        e_image: with the image alone, likewise.
        e_both: with text and image, likewise.
        text_scale: s_T.
        image_scale: s_I.

    Returns:
        (B, ...), in the dtype of the branches.
    """
    total: Tensor | None = None
    for share, branch in zip(shares(text_scale, image_scale), (e_none, e_image, e_both), strict=True):
        if share == 0.0:
            continue
        assert branch is not None, f"a branch with share {share} was not computed"
        part = branch if share == 1.0 else share * branch
        total = part if total is None else total + part
    assert total is not None  # the shares add up to 1
    return total


def rescale(guided: Tensor, conditional: Tensor, strength: float) -> Tensor:
    """Gives a guided prediction back some of the contrast of the conditional one (arXiv:2305.08891, section 3.4).

    Args:
        guided: g, (B, ...).
        conditional: c, the prediction with all conditions, (B, ...).
        strength: phi, 0 (no change) to 1.

    Returns:
        phi g std(c) / std(g) + (1 - phi) g, with the standard deviation of each sample over all its numbers.
    """
    if strength == 0.0:
        return guided
    dims = list(range(1, guided.ndim))
    ratio = conditional.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
    return guided * (strength * ratio + (1.0 - strength))
