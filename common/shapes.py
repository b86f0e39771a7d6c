"""The one legend of axis letters, and the check that stands at folder borders.

B batch, T frames, C channels, H W pixels, h w latent or patch grid, N visual tokens, L text tokens, D width,
K target tokens, P patches of a frame.
"""

import torch
from torch import Tensor


def expect(tensor: Tensor, axes: str, *, name: str, dtype: torch.dtype | None = None, **sizes: int) -> None:
    """Checks rank, stated sizes and dtype.

    Args:
        tensor: what to check.
        axes: letters separated by spaces, such as "B T C H W".
        name: how the tensor is called in the message.
        dtype: required dtype, if it matters.
        **sizes: required size of a letter, such as C=3.

    Raises:
        ValueError: names the tensor, what it is and what it should be.
    """
    letters = axes.split()
    wrong_size = len(letters) == tensor.ndim and any(
        tensor.shape[position] != sizes.get(letter, tensor.shape[position]) for position, letter in enumerate(letters)
    )
    if len(letters) != tensor.ndim or wrong_size or (dtype is not None and tensor.dtype != dtype):
        wanted = ", ".join(
            [axes, *(f"{letter}={size}" for letter, size in sizes.items()), *([str(dtype)] if dtype else [])]
        )
        raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}; expected {wanted}")
