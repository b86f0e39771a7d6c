"""What holds the tower near its base while it learns, so that zero-shot accuracy is not the price of detail."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from common.encoders.tower import ContrastiveTower
from common.lora import without_lora
from projects.genhancer.batch import Batch
from projects.genhancer.vision import Seen


class Distillation:
    """Distance of class embeddings from those of the same tower without its adapters.

    Zero-shot classification and retrieval see nothing of an embedding but its direction. All of that can be held. Or,
    with captions, only how near it is to each of them, which leaves it free wherever they do not look: as learning
    without forgetting (arXiv:1606.09282) holds the answers of a classifier, and ZSCL (arXiv:2303.06628) those to texts.
    """

    def __init__(self, *, weight: float, captions: str | Sequence[str] | None = None) -> None:
        """
        Args:
            weight: of the term beside the loss of the flow; 0 is none.
            captions: texts, or a file with one on each line; None holds the direction of embeddings.

        Raises:
            ValueError: a negative weight, or no captions where some are to be held.
            FileNotFoundError: there is no such file.
        """
        if weight < 0:
            raise ValueError(f"model.distillation.weight={weight}: 0 or more")
        self.weight = weight
        self.captions = None if captions is None else read_captions(captions)
        self._directions: Tensor | None = None

    def __bool__(self) -> bool:
        return self.weight > 0

    def drift(self, tower: ContrastiveTower, batch: Batch, seen: Seen) -> Tensor:
        """How far what is seen of the conditions has moved: float32 (B,), not weighted.

        Args:
            tower: with adapters; without them it computes the conditions once more.
            batch: B samples.
            seen: of them, with the adapters.
        """
        assert batch.conditions is not None
        with torch.no_grad(), without_lora(tower):
            reference = tower.images(batch.conditions.flatten(0, 1)).view_as(seen.embeddings)
        if self.captions is None:
            return turned(seen.embeddings, reference)
        if self._directions is None:  # the text tower never learns
            with torch.no_grad(), torch.autocast(reference.device.type, enabled=False):
                self._directions = functional.normalize(tower.texts(self.captions), dim=-1)
        return apart(seen.embeddings, reference, self._directions.to(reference.device))


def turned(embeddings: Tensor, reference: Tensor) -> Tensor:
    """1 - cosine of embeddings (B, K, D) and reference, mean over K: float32 (B,), 0..2."""
    return 1 - functional.cosine_similarity(embeddings.float(), reference.float(), dim=-1).mean(dim=1)


def apart(embeddings: Tensor, reference: Tensor, texts: Tensor) -> Tensor:
    """Squared differences of the cosines that embeddings and reference (B, K, D) have with texts.

    Args:
        embeddings: of conditions.
        reference: likewise, of the base.
        texts: unit vectors (N, D).

    Returns:
        Mean over K and N: float32 (B,), 0..4.
    """
    found, wanted = (functional.normalize(each.float(), dim=-1) for each in (embeddings, reference))
    return ((found - wanted) @ texts.T).square().mean(dim=(1, 2))


def read_captions(captions: str | Sequence[str]) -> list[str]:
    """Texts, or the lines of a file that are not empty.

    Raises:
        ValueError: there are none.
        FileNotFoundError: there is no such file.
    """
    lines = captions
    if isinstance(captions, str):
        path = Path(captions)
        if not path.is_file():
            raise FileNotFoundError(
                f"model.distillation.captions={path} is not a file; give one with a text on each line"
            )
        lines = [line.strip() for line in path.read_text().splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise ValueError(f"model.distillation.captions={captions} holds no texts; null holds the whole embedding")
    return found
