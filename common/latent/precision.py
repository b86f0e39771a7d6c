"""What it costs to keep latents as they are kept: pictures decoded from them against those from float32."""

import math

import torch
from torch import Tensor

from common.latent.vae import LatentCodec


@torch.inference_mode()
def decode_psnr(reference: LatentCodec, pixels: Tensor, stored: Tensor) -> float | None:
    """Difference of what a decoder makes of stored latents to what it makes of its own, in dB.

    The storage and the precision that the latents were computed in both show.

    Args:
        reference: the autoencoder in float32, with its decoder.
        pixels: uint8 (N, 3, H, W), what was encoded.
        stored: means (N, C, h, w), unscaled.

    Returns:
        PSNR over all pictures, of a peak of 255; None where not a pixel differs.
    """
    device = next(reference.parameters()).device
    exact = reference.encode(pixels.to(device)).mean
    kept, whole = (reference.decode(latents).float() for latents in (stored.to(device).float(), exact))
    error = float((kept - whole).square().mean())
    return 10 * math.log10(255**2 / error) if error else None


def least(values: list[float | None]) -> float:
    """The worst of several, infinite where there is none or no pixel differs."""
    return min((math.inf if value is None else value for value in values), default=math.inf)
