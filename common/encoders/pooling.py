"""Spatio-temporal pooling of Video-ChatGPT (arXiv:2306.05424, section 3.1)."""

import torch
from torch import Tensor

from common.shapes import expect


def spatio_temporal(patches: Tensor, *, temporal: int) -> Tensor:
    """Frame features to T temporal and P spatial tokens.

    Args:
        patches: (T', P, D) patch features of T' <= temporal frames, in time order.
        temporal: number of temporal tokens; missing frames are zero rows at the end.

    Returns:
        (temporal + P, D) in the dtype of `patches`: the mean over the patches of each frame, then the mean over the
        frames at each patch. Means are taken in float32.

    Raises:
        ValueError: more frames than temporal tokens.
    """
    expect(patches, "T P D", name="patches")
    frames = patches.shape[0]
    if not 0 < frames <= temporal:
        raise ValueError(f"{frames} frames for {temporal} temporal tokens; sample at most {temporal} frames")
    wide = patches.float()
    rows = wide.mean(dim=1)
    padding = rows.new_zeros(temporal - frames, rows.shape[1])
    return torch.cat([rows, padding, wide.mean(dim=0)]).to(patches.dtype)
