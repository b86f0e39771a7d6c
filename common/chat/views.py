"""What a test takes away from a video, to see what the answers rest on."""

from collections.abc import Callable, Sequence

import numpy as np

from common.random import mix

VIEWS = ("real", "blind", "middle", "shuffled", "reversed")
Arrange = Callable[[Sequence[int]], list[int]]


def check_view(view: str) -> str:
    """The view, if there is such a one.

    Raises:
        ValueError: there is none.
    """
    if view not in VIEWS:
        raise ValueError(f"view={view}; there is {', '.join(VIEWS)}")
    return view


def arranged(view: str, video: str) -> Arrange:
    """Which of the chosen frames are shown, and in which order.

    Args:
        view: "middle" shows the middle one in the place of each, "reversed" and "shuffled" change the order; "blind"
            is for who has the pixels.
        video: name that the shuffle depends on.
    """
    if view == "middle":
        return lambda indices: [indices[len(indices) // 2]] * len(indices)
    if view == "reversed":
        return lambda indices: list(indices)[::-1]
    if view == "shuffled":
        rng = np.random.default_rng(mix("shuffled", video))
        return lambda indices: [indices[place] for place in rng.permutation(len(indices))]
    return list
