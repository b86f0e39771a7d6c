"""AdamW, with its two moments in 8 bits where the denoiser would not fit beside them otherwise."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from transformers.utils.import_utils import is_bitsandbytes_available


def adamw(parameters: Iterable[Any], *, betas: Sequence[float], eps: float, eight_bit: bool) -> Optimizer:
    """The optimizer of both stages.

    At published size the weights that train and their gradients take 10.5 GB in float32; moments take another 10.5 GB,
    or 2.6 GB in 8 bits (arXiv:2110.02861), which is what makes a card of 24 GB enough.

    Args:
        parameters: parameter groups.
        betas: of the moments.
        eps: added to the root of the second.
        eight_bit: whether moments of 4,096 numbers and more are held in 8 bits; needs bitsandbytes and a GPU.

    Raises:
        ValueError: 8 bits without bitsandbytes.
    """
    first, second = betas
    if not eight_bit:
        return torch.optim.AdamW(parameters, betas=(first, second), eps=eps)
    if not is_bitsandbytes_available():
        raise ValueError(
            "model.optimizer.eight_bit=true (the default on 24 GB cards) needs bitsandbytes: pip install -e '.[8bit]'; "
            "without it the denoiser and its moments do not fit into 24 GB: take larger cards (hardware=a100x8), or a "
            "smaller denoiser with model.optimizer.eight_bit=false"
        )
    from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found,unused-ignore]

    optimizer: Optimizer = AdamW8bit(list(parameters), betas=(first, second), eps=eps)
    return optimizer
