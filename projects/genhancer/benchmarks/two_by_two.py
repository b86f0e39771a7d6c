"""The scoring of MMVP: two pictures, two texts, and a pair counts only if each text finds its picture."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from projects.genhancer.benchmarks.reader import Reader


class Choice(NamedTuple):
    """What a model chose in one pair.

    Attributes:
        scores: share of the first picture in the softmax over both, for each of the two texts.
        first: whether each text chooses the first picture: a share above one half; a tie goes to the second.
    """

    scores: tuple[float, float]
    first: tuple[bool, bool]


def choose(reader: Reader, pictures: Tensor, texts: Tensor) -> list[Choice]:
    """What each text of each pair chooses.

    Args:
        reader: of the model whose logits decide.
        pictures: embeddings (2 N, D), the two of a pair one after the other.
        texts: embeddings (2 N, D), likewise.

    Returns:
        N choices.
    """
    found = []
    for start in range(0, len(pictures), 2):
        pair = slice(start, start + 2)
        shares = reader.logits(pictures[pair], texts[pair]).T.softmax(dim=-1)[:, 0].tolist()
        found.append(Choice((shares[0], shares[1]), (shares[0] > 0.5, shares[1] > 0.5)))
    return found


def picture(first: bool) -> str:
    """Name of a choice in the tables of predictions."""
    return "img1" if first else "img2"


def gold_of(number: int) -> bool:
    """Whether the statement of this number, counted from 1, belongs to the first picture of its pair: the odd ones."""
    return number % 2 == 1


def right(choice: Choice, gold: Sequence[bool]) -> bool:
    """Whether both texts found their picture."""
    return all(chosen == wanted for chosen, wanted in zip(choice.first, gold, strict=True))
