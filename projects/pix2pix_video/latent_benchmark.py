"""A training step from cached latents against one that encodes its frames and instructions, in one run."""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from common.encoders.turns import pick_devices
from common.measure import Clock, autocast, operations, peak_gib
from common.optim import parameter_groups
from common.progress import track
from common.types import Build
from projects.pix2pix_video.data import EditBatch, example
from projects.pix2pix_video.latents import DTYPE
from projects.pix2pix_video.module import Pix2PixVideo

PARTS = ("frames", "instructions", "forward", "backward", "optimizer")
PROMPT = "turn the ring back"
STEPS = 1000  # timesteps that are drawn from


class Trained:
    """The module with its optimizer on a device, and both kinds of steps."""

    def __init__(self, module: Pix2PixVideo, *, device: torch.device, precision: str) -> None:
        self._cast = partial(autocast, device, precision)
        self._cast()  # a wrong precision is told before anything is built
        if module.train_text_encoder:
            raise ValueError("task.module.train_text_encoder=true cannot be cached; there is nothing to compare")
        module.configure_model()
        self.module = module.to(device).train()
        self.device = device
        groups = parameter_groups({"unet": (module.model.parameters(), module.lr)}, weight_decay=module.weight_decay)
        self.optimizer = module.make_optimizer(groups)
        self.text_encoder = module._part("text_encoder")
        self.encoder_calls = 0
        for part in (module.codec.vae.encoder, self.text_encoder.tower):
            part.register_forward_hook(self._count)

    def cached(self, batch: EditBatch, clock: Clock) -> Tensor:
        """A step of a batch that brings latents and states; the loss."""
        assert batch.frames is None
        with clock.part("forward"), self._cast():
            loss = self.module.training_step(batch, 0)
        with clock.part("backward"):
            loss.backward()
        with clock.part("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def on_the_fly(self, batch: EditBatch, clock: Clock) -> Tensor:
        """A step of a batch that brings frames and instructions."""
        return self.cached(self.encode(batch, clock), clock)

    def encode(self, batch: EditBatch, clock: Clock) -> EditBatch:
        """The batch as the caches hold it; the module rounds what it encodes likewise, so nothing is lost here."""
        with clock.part("frames"), self._cast():
            history, target = self.module.latents(batch)
        with clock.part("instructions"), self._cast():
            text, null_text = self.module.text(batch)
        latents = torch.cat([history, target.mean[:, None], target.logvar[:, None]], dim=1).to(DTYPE)
        return batch._replace(latents=latents, frames=None, text=text.to(DTYPE), null_text=null_text.to(DTYPE))

    def batch(self, *, rows: int, size: int, seed: int) -> EditBatch:
        """Random frames with an instruction, on the device."""
        codec, text, history = self.module.codec, self.text_encoder, self.module.model.history
        latent = [codec.channels, size // codec.factor, size // codec.factor]
        usual = example(rows=rows, history=history, latent=latent, text=[text.max_tokens, text.width], steps=STEPS)
        source = torch.Generator().manual_seed(seed)
        frames = torch.randint(0, 256, (rows, history + 1, 3, size, size), dtype=torch.uint8, generator=source)
        fresh = usual._replace(latents=None, text=None, null_text=None, frames=frames, prompts=(PROMPT,) * rows)
        moved: EditBatch = self.module.transfer_batch_to_device(fresh, self.device, 0)
        return moved

    def _count(self, *_: Any) -> None:
        self.encoder_calls += 1


def latent_benchmark(
    *, module: Build[Pix2PixVideo], size: int, batch: int, rounds: int, device: str, precision: str, seed: int
) -> dict[str, float]:
    """Times both kinds of steps on the same batch and the same model, in turn, and prints a table.

    Frames come decoded and from memory, as latents do: what differs is the encoding alone. Everything is done once
    before the first round, to warm up and to count operations.

    Args:
        module: recipe of the module.
        size: side of the frames in pixels.
        batch: samples a step.
        rounds: timed rounds, each of one step of each kind, in an order that changes from round to round.
        device: "cpu", "cuda" or "cuda:i".
        precision: "32-true", or "bf16-mixed", under autocast.
        seed: of the frames.

    Returns:
        `ratio`, the median over the rounds of the samples a second from the cache by those on the fly, `ratio_least`,
        `ratio_most`, the medians `cached_samples_per_second` and `on_the_fly_samples_per_second`, `cached_tflop` and
        `on_the_fly_tflop` a sample, `cached_encoder_calls` of all timed steps, `largest_difference` of the latents and
        states of two encodings (with two kernels of attention), and `peak_gib` of the process, or of the GPU.

    Raises:
        ValueError: no such device or precision, no round, no sample, or a text encoder that learns.
    """
    if rounds < 1 or batch < 1:
        raise ValueError(f"task.rounds={rounds}, task.batch={batch}: neither may be 0")
    (place,) = pick_devices(device)
    trained = Trained(module(), device=place, precision=precision)
    fresh = trained.batch(rows=batch, size=size, seed=seed)
    kept = trained.encode(fresh, Clock(place, PARTS))
    again, encoding = operations(lambda: trained.encode(fresh, Clock(place, PARTS)))
    _, training = operations(lambda: trained.cached(kept, Clock(place, PARTS)))
    figures = {"cached_tflop": training / batch / 1e12, "on_the_fly_tflop": (encoding + training) / batch / 1e12}
    sides = {"cached": (trained.cached, kept), "on_the_fly": (trained.on_the_fly, fresh)}
    clocks: dict[str, list[Clock]] = {name: [] for name in sides}
    calls = 0
    for turn in track(range(rounds), description="rounds"):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            step, given = sides[name]
            before = trained.encoder_calls
            clocks[name].append(Clock(place, PARTS))
            step(given, clocks[name][-1])
            calls += trained.encoder_calls - before if name == "cached" else 0
    figures |= _rates(clocks["cached"], clocks["on_the_fly"], rows=batch)
    figures |= {
        "cached_encoder_calls": calls,
        "largest_difference": _difference(kept, again),
        "peak_gib": peak_gib(place),
    }
    _print(clocks, figures, f"{batch} samples of {trained.module.model.history} + 1 frames of {size} px, {place}")
    return figures


def _difference(kept: EditBatch, again: EditBatch) -> float:
    """Greatest difference of any number of two encodings."""
    pairs = ((kept.latents, again.latents), (kept.text, again.text))
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs if a is not None and b is not None)


def _rates(cached: Sequence[Clock], on_the_fly: Sequence[Clock], *, rows: int) -> dict[str, float]:
    ratios = [slow.total / fast.total for fast, slow in zip(cached, on_the_fly, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
        "cached_samples_per_second": rows / statistics.median(clock.total for clock in cached),
        "on_the_fly_samples_per_second": rows / statistics.median(clock.total for clock in on_the_fly),
    }


def _print(clocks: dict[str, list[Clock]], figures: dict[str, float], title: str) -> None:
    table = Table("", "samples/s", "TFLOP a sample", *(f"{part} %" for part in PARTS), title=title)
    for name, each in clocks.items():
        whole = sum(clock.total for clock in each)
        shares = [sum(clock.seconds[part] for clock in each) / whole for part in PARTS]
        row = [f"{figures[f'{name}_samples_per_second']:.3g}", f"{figures[f'{name}_tflop']:.3g}"]
        table.add_row(name.replace("_", " "), *row, *(f"{100 * share:.1f}" for share in shares))
    console = Console(width=120)
    console.print(table)
    console.print(
        f"cached by on the fly: {figures['ratio']:.2f} ({figures['ratio_least']:.2f} to {figures['ratio_most']:.2f}); "
        f"by operations alone {figures['on_the_fly_tflop'] / figures['cached_tflop']:.2f}; "
        f"{figures['cached_encoder_calls']:.0f} calls of encoders in cached steps; peak {figures['peak_gib']:.1f} GiB",
        highlight=False,
    )
