"""The frozen autoencoder of latent diffusion: uint8 pictures in, posteriors out, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from common.autocast import without_autocast
from common.files import digest
from common.latent.flux_vae import read_flux_vae
from common.random import mix
from common.shapes import expect
from common.weights.source import WeightsError, weights_folder

LOGVAR = (-30.0, 20.0)  # AutoencoderKL clamps to this range before it samples
SUBFOLDER = "vae"  # in the folder of a diffusers pipeline


class Posterior(NamedTuple):
    """The diagonal Gaussian that an encoder gives, unscaled: float32 (N, C, h, w) each."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise; `noise` is standard normal of the same shape."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise


class LatentCodec(nn.Module):
    """An `AutoencoderKL` in eval mode whose parameters never train.

    Latents are unscaled wherever they are stored or exchanged; `scale` gives what a denoiser works on
    (arXiv:2112.10752, section 4.3.2): (latent - shift) * scaling factor.
    """

    vae: Any  # what diffusers decorates has no types

    def __init__(self, vae: AutoencoderKL, *, identity: str, dtype: torch.dtype, encoder_only: bool = False) -> None:
        """
        Args:
            vae: the autoencoder.
            identity: of its weights, as caches record it.
            dtype: that it computes in.
            encoder_only: drop the decoder; `decode` is then an error.
        """
        super().__init__()
        self.config: Any = vae.config
        if encoder_only:
            vae.decoder = vae.post_quant_conv = None
        vae = vae if vae.dtype == dtype else vae.to(dtype)  # diffusers warns of every cast
        self.vae = vae.eval().requires_grad_(False)
        self.identity, self.dtype, self.encoder_only = identity, dtype, encoder_only
        self.scaling_factor = float(self.config.scaling_factor)
        self.shift_factor = float(self.config.shift_factor or 0.0)
        self.channels = int(self.config.latent_channels)
        self.factor = int(2 ** (len(self.config.block_out_channels) - 1))
        self.eval()

    def train(self, mode: bool = True) -> "LatentCodec":
        """Stays in eval mode: the autoencoder is frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Posterior:
        """Posteriors of pictures.

        Args:
            pixels: uint8 (N, 3, H, W), 0..255; H and W multiples of `factor`.

        Raises:
            ValueError: of another shape, dtype or size.
        """
        expect(pixels, "N C H W", name="pixels", dtype=torch.uint8, C=3)
        height, width = pixels.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(f"pictures of {height} x {width} pixels; the autoencoder takes multiples of {self.factor}")
        normal = self._arranged(pixels.to(self.dtype) / 127.5 - 1)
        with without_autocast(normal):  # its dtype is chosen, and a cache records it
            mean, logvar = self.vae._encode(normal).float().chunk(2, dim=1)
        return Posterior(mean.contiguous(), logvar.clamp(*LOGVAR).contiguous())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of unscaled latents (N, C, h, w): uint8 (N, 3, H, W), rounded, cut to 0..255 as pictures are."""
        expect(latents, "N C h w", name="latents", C=self.channels)
        assert not self.encoder_only, "this codec was built to encode only"
        with without_autocast(latents):
            normal = self.vae.decode(latents.to(self.dtype), return_dict=False)[0].float()
        pictures: Tensor = ((normal + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pictures

    def _arranged(self, pictures: Tensor) -> Tensor:
        """On a GPU weights and pictures with the channels last, as its convolutions read them."""
        if not pictures.is_cuda:
            return pictures
        self.vae.to(memory_format=torch.channels_last)  # does nothing the second time
        return pictures.contiguous(memory_format=torch.channels_last)

    def scale(self, unscaled: Tensor) -> Tensor:
        """What a denoiser works on."""
        return (unscaled - self.shift_factor) * self.scaling_factor

    def unscale(self, scaled: Tensor) -> Tensor:
        """The inverse of `scale`."""
        return scaled / self.scaling_factor + self.shift_factor


def load_codec(
    *,
    weights: str,
    architecture: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    seed: int = 0,
    encoder_only: bool = False,
) -> LatentCodec:
    """Builds the codec.

    Args:
        weights: folder of an autoencoder, folder or fetched Hub id of a pipeline with a `vae` in it, FLUX's
            `ae.safetensors`, or "random".
        architecture: arguments of AutoencoderKL; only for "random".
        dtype: to compute in: bfloat16 on a GPU, float32 otherwise.
        seed: of the random weights.
        encoder_only: drop the decoder.

    Raises:
        ValueError: "random" without an architecture.
        WeightsError: nothing of that name, or no autoencoder in it.
    """
    vae, identity = _random(architecture, seed) if weights == "random" else _load(weights)
    return LatentCodec(vae, identity=identity, dtype=getattr(torch, dtype), encoder_only=encoder_only)


def _random(architecture: Mapping[str, Any] | None, seed: int) -> tuple[AutoencoderKL, str]:
    if architecture is None:
        raise ValueError("vae.weights=random needs vae.architecture, the arguments of AutoencoderKL")
    arguments = {name: value for name, value in architecture.items() if not name.startswith("_")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("vae", seed))
        return AutoencoderKL(**arguments), f"random:{seed}:{sorted(arguments.items())}"


def _load(weights: str) -> tuple[AutoencoderKL, str]:
    if weights.endswith(".safetensors"):
        return read_flux_vae(Path(weights))
    folder = weights_folder(weights)
    place = folder / SUBFOLDER if (folder / SUBFOLDER).is_dir() else folder
    files = sorted(place.glob("diffusion_pytorch_model*.safetensors"))
    if not files or not (place / "config.json").is_file():
        raise WeightsError(
            f"{place} holds no autoencoder (config.json and diffusion_pytorch_model.safetensors); fetch it, or give "
            "the folder of a pipeline that has vae/"
        )
    vae, found = AutoencoderKL.from_pretrained(place, output_loading_info=True, local_files_only=True)
    if missing := sorted(found["missing_keys"]):
        raise WeightsError(f"{place} lacks {len(missing)} parameters of its autoencoder, such as {missing[0]}")
    return vae, "+".join(digest(file) for file in files)
