"""Whether predictions on the built-in edits do what their instruction says: one history, two instructions.

A prediction follows its instruction when the object in it is nearer to the target of that instruction than to the
target of the other one, in all in which the two targets differ: colour, place or both. A pair counts as followed when
both its predictions do, so a model that ignores the instruction, or the history, follows no pair.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from common.metrics.interval import Estimate, wilson
from common.shapes import expect
from common.shapes_world.tracker import Found, apart, find

SAME_PLACE = 1.0  # pixel: targets nearer to each other do not differ in place


@dataclass(frozen=True)
class Sighting:
    """What the tracker finds for one row.

    Attributes:
        pair: the same for the two rows of a history.
        kind: of the instruction.
        pred: the object in the prediction; None where there is none.
        truth: the object in the target.
        size: side of the pictures, pixels.
    """

    pair: str
    kind: str
    pred: Found | None
    truth: Found
    size: int


def sighting(*, row: str, pair: str, kind: str, pred: Tensor, truth: Tensor) -> Sighting:
    """Looks for the largest object of a prediction and of its target.

    Args:
        row: its name, for the message.
        pair: the same for the two rows of a history.
        kind: of the instruction.
        pred: uint8 (3, H, W), H == W.
        truth: uint8 (3, H, W).

    Raises:
        ValueError: there is no object in the target.
    """
    own = _largest(truth)
    if own is None:
        raise ValueError(f"row {row}: no object of the shapes world in its target; model.follow=false for other data")
    return Sighting(pair, kind, _largest(pred), own, truth.shape[-1])


def _largest(picture: Tensor) -> Found | None:
    expect(picture, "C H W", name="picture", C=3, dtype=torch.uint8)
    found = find(np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy()))
    return found[0] if found else None


def follows(one: Sighting, other: Sighting) -> bool:
    """Whether `one` shows what its own instruction asks for rather than what that of `other` does.

    Raises:
        ValueError: their targets differ neither in colour nor in place.
    """
    colour = one.truth.colour != other.truth.colour
    place = _distance(one.truth, other.truth, one.size) >= SAME_PLACE
    if not colour and not place:
        raise ValueError(f"pair {one.pair}: the targets of {one.kind} and {other.kind} do not differ")
    if one.pred is None or (colour and one.pred.colour != one.truth.colour):
        return False
    near, far = (_distance(one.pred, target.truth, one.size) for target in (one, other))
    return not place or near < far


def followed(sightings: Mapping[str, Sighting]) -> dict[str, Estimate]:
    """Share of pairs in which both predictions follow their instruction, with Wilson's interval.

    Args:
        sightings: by name of the row; rows whose partner is not among them, or asks for the same, make no pair.

    Returns:
        `followed`, and `followed/<kind>+<kind>` for each combination; nothing where there is no pair.
    """
    rows: dict[str, list[Sighting]] = {}
    for each in sightings.values():
        rows.setdefault(each.pair, []).append(each)
    results: dict[str, list[bool]] = {}
    for members in rows.values():
        for one, two in combinations(members, 2):
            if one.kind != two.kind:
                both = follows(one, two) and follows(two, one)
                for column in ("followed", f"followed/{'+'.join(sorted((one.kind, two.kind)))}"):
                    results.setdefault(column, []).append(both)
    return {column: wilson(sum(found), len(found)) for column, found in sorted(results.items())}


def _distance(one: Found, two: Found, size: int) -> float:
    return float(np.hypot(*apart(one, two, size=size)))
