"""Classifier-free guidance with two conditions: the caption and the other frames of the clip (the context).

Guidance by the caption and guidance by the context, each linear, applied one after the other:
v = (1-c)(1-s) v(0,0) + (1-c) s v(0,T) + c (1-s) v(C,0) + c s v(C,T), with c the context's scale and s the caption's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from common.latent.guidance import rescale


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly the conditions are followed.

    Attributes:
        text_scale: s, 1 takes the prediction as it is.
        context_scale: c, likewise.
        rescale: phi of arXiv:2305.08891, 0 (none) to 1; one standard deviation for all frames of a clip, so that a
            clip keeps the contrasts between its frames.
    """

    text_scale: float = 8.0
    context_scale: float = 1.1
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"sampling.guidance.rescale={self.rescale}: 0 (none) to 1")


class Branch(NamedTuple):
    """One set of conditions: the context or none, the caption or the null one."""

    context: bool
    text: bool


NONE, TEXT, CONTEXT, BOTH = Branch(False, False), Branch(False, True), Branch(True, False), Branch(True, True)


def shares(guidance: Guidance) -> dict[Branch, float]:
    """What each branch counts in the guided prediction; the four add up to 1."""
    s, c = guidance.text_scale, guidance.context_scale
    return {NONE: (1 - c) * (1 - s), TEXT: (1 - c) * s, CONTEXT: c * (1 - s), BOTH: c * s}


def branches(guidance: Guidance) -> list[Branch]:
    """The branches that are worth computing: those that count, and the one whose contrast is restored."""
    found = shares(guidance)
    return [branch for branch in found if found[branch] != 0.0 or (branch == BOTH and guidance.rescale != 0.0)]


def combine(found: Mapping[Branch, Tensor], guidance: Guidance) -> Tensor:
    """The guided prediction.

    Args:
        found: predictions of clips, (B, F, C, h, w) each, of all `branches(guidance)`.
        guidance: scales.

    Returns:
        (B, F, C, h, w), in the dtype of the branches.
    """
    total: Tensor | None = None
    for branch, share in shares(guidance).items():
        if share != 0.0:
            part = found[branch] if share == 1.0 else share * found[branch]
            total = part if total is None else total + part
    assert total is not None  # the shares add up to 1
    return rescale(total, found[BOTH], guidance.rescale) if guidance.rescale != 0.0 else total


def refuse_context(guidance: Guidance, *, kind: Any) -> None:
    """Refuses a scale for a context to a kind that has none: its frames are denoised together, or know each other.

    Args:
        guidance: scales.
        kind: class of the kind, or a recipe of it as a configuration makes it.

    Raises:
        ValueError: another scale than 1.
    """
    made: Any = kind.func if isinstance(kind, partial) else kind
    if guidance.context_scale != 1.0 and not made.has_context:
        raise ValueError(
            f"sampling.guidance.context_scale={guidance.context_scale} (context_guidance_scale of a pipeline), but "
            f"{made.__name__} has no context apart from the clip itself; set it to 1"
        )
