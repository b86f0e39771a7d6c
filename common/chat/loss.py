"""Language loss: the sum over target tokens, divided by what the whole global batch holds."""

import torch
import torch.nn.functional as F
from torch import Tensor


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each target token: float32 (K, V), int64 (K,) -> (K,)."""
    return F.cross_entropy(logits, targets, reduction="none")


def per_sample(values: Tensor, rows: Tensor, batch: int) -> Tensor:
    """Sums token values (K,) into their samples by `rows` int64 (K,): (batch,)."""
    return values.new_zeros(batch).index_add(0, rows, values)


def global_mean(losses: Tensor, rows: Tensor, batch: int, normalizer: Tensor, *, per: str) -> Tensor:
    """This micro-batch's share of the loss of the global batch.

    Args:
        losses: (K,) of the target tokens.
        rows: int64 (K,), the sample of each.
        batch: number of samples.
        normalizer: scalar; tokens (per="token") or samples (per="sample") of the global batch, divided by the number
            of micro-batches that share it.
        per: "token" weighs every target token alike, "sample" every sample.

    Returns:
        Scalar. The mean over all micro-batches and ranks of a step is the loss of the global batch.
    """
    if per == "token":
        return losses.sum() / normalizer
    sums = per_sample(losses, rows, batch)
    counts = per_sample(torch.ones_like(losses), rows, batch)
    return (sums / counts).sum() / normalizer
