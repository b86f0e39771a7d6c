"""Steps of the distributed kind in each of the ways that the benchmark compares, with weights that stay."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common.measure import Clock, autocast
from common.optim import parameter_groups
from projects.text_to_video.benchmark_rows import Case
from projects.text_to_video.conditioner import Conditioner
from projects.text_to_video.data import ClipBatch, example
from projects.text_to_video.distributed import Distributed
from projects.text_to_video.module import TextToVideo

TARGETS = (1, 4, 8)  # frames of a clip that a step learns
PARTS = ("forward", "backward", "optimizer")


class OnceATarget(nn.Module):
    """A conditioner as it is published: each target frame is a row of the batch, with keys and values of its own."""

    def __init__(self, conditioner: Conditioner) -> None:
        super().__init__()
        self.conditioner = conditioner

    def forward(self, clips: Tensor, targets: Tensor, *, time: Tensor) -> Tensor:
        """As that of the conditioner: clips (B, F, C, h, w), targets (B, m), time (B,) to (B, m, Q, D)."""
        rows, times = (each.repeat_interleave(targets.shape[1], dim=0) for each in (clips, time))
        summaries: Tensor = self.conditioner(rows, targets.reshape(-1, 1), time=times)
        return summaries.view(*targets.shape, *summaries.shape[-2:])


class Steps:
    """The module on a device, with steps of every case; the weights stay as they are, at a learning rate of 0."""

    def __init__(self, module: TextToVideo, *, device: torch.device) -> None:
        module.configure_model()
        if not isinstance(module.kind, Distributed):
            raise ValueError(
                f"task.module.kind is {type(module.kind).__name__}: only Distributed shares keys and values"
            )
        self.module, self.device = module.to(device).train(), device
        self.kind, self.frames = module.kind, module.kind.conditioner.frames
        self.conditioners: dict[bool, Any] = {
            True: module.kind.conditioner,
            False: OnceATarget(module.kind.conditioner),
        }
        groups = parameter_groups({"kind": (module.kind.parameters(), 0.0)}, weight_decay=module.weight_decay)
        self.optimizer = module.make_optimizer(groups)
        self.codec, self.text_encoder = module.codec, module._part("text_encoder")
        self.encoder_calls = 0
        self.codec.vae.encoder.register_forward_hook(self._count)

    def batches(self, *, rows: int, size: int, seed: int) -> dict[bool, ClipBatch]:
        """One batch twice: with random frames, and with their latents as a cache holds them (True)."""
        frames, side = self.frames, size // self.codec.factor
        latent, steps = [self.codec.channels, side, side], self.module.noise.steps
        usual = example(rows=rows, frames=frames, latent=latent, steps=steps, targets=max(TARGETS))
        shape, source = (rows, frames, 3, size, size), torch.Generator().manual_seed(seed)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=source)
        fresh = usual._replace(latents=None, frames=pixels)
        moved: ClipBatch = self.module.transfer_batch_to_device(fresh, self.device, 0)
        return {False: moved, True: moved._replace(frames=None, latents=self.encode(moved))}

    def encode(self, batch: ClipBatch) -> Tensor:
        """The latents of a batch as a cache holds them."""
        assert batch.frames is not None
        mean = self.codec.encode(batch.frames.flatten(0, 1)).mean
        return mean.unflatten(0, batch.frames.shape[:2]).bfloat16()

    def forward(self, case: Case, batches: Mapping[bool, ClipBatch]) -> Tensor:
        """The loss of a case."""
        self.kind.targets, self.kind.conditioner = case.targets, self.conditioners[case.shared]
        return self.module.training_step(batches[case.cached], 0)

    def step(self, case: Case, batches: Mapping[bool, ClipBatch], clock: Clock, *, precision: str) -> float:
        """A whole step; the loss."""
        with clock.part("forward"), autocast(self.device, precision):
            loss = self.forward(case, batches)
        with clock.part("backward"):
            loss.backward()
        with clock.part("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return float(loss.detach())

    def _count(self, *_: Any) -> None:
        self.encoder_calls += 1
