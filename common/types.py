"""Types that cross folders."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

T = TypeVar("T")
Build = Callable[..., T]  # a recipe: called once, when and where the object is wanted


class Pick(NamedTuple):
    """What the order asks a data set for.

    Attributes:
        row: number of the row in the data set.
        position: place in the one global order of the run, from 0.
        normalizer: what the loss of this micro-batch is divided by, so that the mean over micro-batches and ranks,
            which Lightning and DDP take, is the loss of the global batch.
    """

    row: int
    position: int
    normalizer: float
