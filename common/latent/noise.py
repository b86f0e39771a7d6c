"""The noise schedule of a diffusion model: what is added, what is learned, and how a step counts.

With abar the cumulative product of 1 - beta: z_t = sqrt(abar_t) x + sqrt(1 - abar_t) e (arXiv:2006.11239, equation 4),
SNR = abar / (1 - abar), v = sqrt(abar_t) e - sqrt(1 - abar_t) x (arXiv:2202.00512, appendix D).
"""

from typing import Protocol

import torch
from torch import Tensor, nn

EPSILON, V, SAMPLE = "epsilon", "v_prediction", "sample"
PREDICTIONS = (EPSILON, V, SAMPLE)
WEIGHTINGS = ("plain", "uniform", "min_snr", "max_snr")


class Scheduler(Protocol):
    """What is read of a scheduler of diffusers."""

    alphas_cumprod: Tensor
    config: object


class NoiseSchedule(nn.Module):
    """The schedule that a scheduler of diffusers is configured with, for training.

    Attributes:
        steps: number of timesteps.
        prediction: what the model gives: "epsilon", "v_prediction" or "sample".
    """

    abar: Tensor

    def __init__(self, scheduler: Scheduler) -> None:
        """
        Raises:
            ValueError: of another kind of prediction, or noise prediction where the last step is noise alone.
        """
        super().__init__()
        self.prediction = str(scheduler.config.prediction_type)  # type: ignore[attr-defined]
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction_type={self.prediction}: one of {', '.join(PREDICTIONS)}")
        self.register_buffer("abar", scheduler.alphas_cumprod.float(), persistent=False)
        if self.prediction == EPSILON and scheduler.config.rescale_betas_zero_snr:  # type: ignore[attr-defined]
            raise ValueError(
                "prediction_type=epsilon with zero terminal SNR: at the last step the noise is the input and nothing "
                "can be learned (arXiv:2305.08891, section 3.1); take v_prediction"
            )
        self.steps = len(self.abar)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t; `timesteps` is int64 (B,)."""
        signal, share = self._shares(timesteps, clean.ndim)
        return signal * clean + share * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should give."""
        if self.prediction == EPSILON:
            return noise
        if self.prediction == SAMPLE:
            return clean
        signal, share = self._shares(timesteps, clean.ndim)
        return signal * noise - share * clean

    def clean(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """x as the prediction tells it; with noise prediction not at a step of zero SNR."""
        signal, share = self._shares(timesteps, noisy.ndim)
        if self.prediction == EPSILON:
            return (noisy - share * prediction) / signal
        if self.prediction == SAMPLE:
            return prediction
        return signal * noisy - share * prediction

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio, float32 (B,)."""
        abar = self.abar[timesteps]
        return abar / (1 - abar)

    def weight(self, timesteps: Tensor, *, kind: str, gamma: float = 5.0) -> Tensor:
        """Weight of the squared error of the prediction: float32 (B,).

        An error of x counts 1 (uniform), min(SNR, gamma) (arXiv:2303.09556) or max(SNR, 1) (arXiv:2202.00512); the
        squared error of e is SNR times that of x, that of v SNR + 1 times. "plain" is 1 for the prediction itself.
        """
        if kind not in WEIGHTINGS:
            raise ValueError(f"weighting={kind}: one of {', '.join(WEIGHTINGS)}")
        snr = self.snr(timesteps)
        if kind == "plain":
            return torch.ones_like(snr)
        of_clean = {"uniform": torch.ones_like(snr), "min_snr": snr.clamp(max=gamma), "max_snr": snr.clamp(min=1.0)}
        return of_clean[kind] / {EPSILON: snr, V: snr + 1, SAMPLE: torch.ones_like(snr)}[self.prediction]

    def _shares(self, timesteps: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
        abar = self.abar[timesteps].view(-1, *(1,) * (dimensions - 1))
        return abar.sqrt(), (1 - abar).sqrt()


def squared_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample, in float32: (B,)."""
    return (prediction.float() - target.float()).square().flatten(1).mean(dim=1)
