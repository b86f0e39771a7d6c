"""What the ranks found for their rows, brought together."""

from collections.abc import Mapping
from typing import TypeVar

from torch import distributed

Found = TypeVar("Found")


def gathered(rows: Mapping[str, Found]) -> dict[str, Found]:
    """What all ranks hold, by name of the row and in the order of the names; every rank gets all of it.

    Ranks may hold different numbers of rows, or none. A row that several ranks saw counts once. The order is the same
    for every number of ranks, so sums over it are equal to the last bit.

    Args:
        rows: what this rank holds, by name; it is pickled.
    """
    parts: list[Mapping[str, Found]] = [rows]
    if distributed.is_available() and distributed.is_initialized():
        parts = [{}] * distributed.get_world_size()
        distributed.all_gather_object(parts, rows)
    union = {name: found for part in parts for name, found in part.items()}
    return dict(sorted(union.items()))
