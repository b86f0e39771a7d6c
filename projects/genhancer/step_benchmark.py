"""Training steps from caches against steps that encode their pictures, in one run, and their cost in operations."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from common.encoders.turns import pick_devices
from common.measure import Clock, autocast, operations, peak_gib
from common.optim import parameter_groups
from common.progress import track
from common.types import Build
from projects.genhancer.batch import Batch, example
from projects.genhancer.caches import LATENT_DTYPE
from projects.genhancer.module import GenHancer

PARTS = ("targets", "conditions", "forward", "backward", "optimizer")
COUNTED = "meta"  # the device on which operations are counted and nothing is computed
ON_THE_FLY, LATENTS, BOTH = "on_the_fly", "latents", "latents_and_embeddings"  # what comes from a cache


class Steps:
    """The module with its optimizer on a device, and steps of every kind; the weights stay, at a rate of 0."""

    def __init__(self, module: GenHancer, *, device: torch.device) -> None:
        module.configure_model()
        self.module, self.device = module.to(device).train(), device
        self.codec, self.tower = module.codec, module.seeing()
        parts = {"reconstructor": (module.reconstructor.parameters(), 0.0)}
        if module.learns_tower:
            parts["tower"] = (self.tower.parameters(), 0.0)
        self.optimizer = module.make_optimizer(parameter_groups(parts, weight_decay=module.weight_decay))

    @property
    def kinds(self) -> tuple[str, ...]:
        """What can come from a cache: embeddings of a tower that learns cannot."""
        return (ON_THE_FLY, LATENTS) if self.module.learns_tower else (ON_THE_FLY, LATENTS, BOTH)

    def batch(self, *, rows: int, conditions: int, size: int, seed: int) -> Batch:
        """Random pictures on the device: K conditions at the size of the tower, and a target of `size` pixels."""
        side = size // self.codec.factor
        latent, seen = [self.codec.channels, side, side], self.tower.image_size
        usual = example(rows=rows, conditions=conditions, size=seen, target=size, latent=latent)
        source = torch.Generator(device="cpu").manual_seed(seed)
        picture = torch.randint(256, (rows, 3, size, size), generator=source, dtype=torch.uint8, device="cpu")
        moved: Batch = self.module.transfer_batch_to_device(usual._replace(target=picture), self.device, 0)
        return moved

    def kept(self, batch: Batch, kind: str, clock: Clock) -> Batch:
        """The batch as a data set gives it with the caches of a kind."""
        if kind != ON_THE_FLY:
            batch = self.encode_targets(batch, clock)
        return self.encode_conditions(batch, clock) if kind == BOTH else batch

    def encode_targets(self, batch: Batch, clock: Clock) -> Batch:
        """Latents instead of targets; the module rounds what it encodes likewise."""
        assert batch.target is not None
        with clock.part("targets"):
            posterior = self.codec.encode(batch.target)
        latents = torch.cat([posterior.mean, posterior.logvar], dim=1).to(LATENT_DTYPE)
        return batch._replace(latents=latents, target=None)

    def encode_conditions(self, batch: Batch, clock: Clock) -> Batch:
        """Embeddings instead of conditions."""
        with clock.part("conditions"):
            embeddings = self.module.see(batch).embeddings
        return batch._replace(embeddings=embeddings, conditions=None)

    def step(self, batch: Batch, clock: Clock, *, precision: str) -> Tensor:
        """A whole step, what is not cached included; the loss."""
        with nullcontext() if self.device.type == COUNTED else autocast(self.device, precision):
            if batch.latents is None:
                batch = self.encode_targets(batch, clock)
            if batch.embeddings is None and not self.module.learns_tower:
                batch = self.encode_conditions(batch, clock)
            with clock.part("forward"):
                loss = self.module.training_step(batch, 0)
        with clock.part("backward"):
            loss.backward()
        with clock.part("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()


def step_benchmark(
    *,
    module: Build[GenHancer],
    conditions: int,
    size: int,
    batch: int,
    rounds: int,
    device: str,
    precision: str,
    seed: int,
) -> dict[str, float]:
    """Times steps from caches and steps that encode, on the same pictures and weights, in turn, and prints a table.

    Pictures come decoded and from memory, as latents do: what differs is the encoding alone. In the first stage the
    class embeddings may be cached too, in the second only the latents. A step of each kind goes before the first round.

    Args:
        module: recipe of the module, with random weights.
        conditions: K, the frames that are shown: 1 for pictures.
        size: side of the targets in pixels.
        batch: samples a step.
        rounds: timed rounds, each of one step of each kind, in an order that changes from round to round.
        device: "cpu", "cuda", "cuda:i", or "meta": operations are counted, and nothing is computed or timed.
        precision: "32-true", or "bf16-mixed", under autocast.
        seed: of the pictures.

    Returns:
        For each kind `<kind>_tflop`, operations of a sample; and, but on "meta", `<kind>_samples_per_second` (median),
        for each cached kind `<kind>_ratio`, `_ratio_least`, `_ratio_most`, how often as fast it is as the step that
        encodes, `<kind>_difference`, the greatest relative difference of their losses; and `peak_gib` of the process,
        or of the GPU.

    Raises:
        ValueError: no such device or precision, no round, or no sample.
    """
    if rounds < 1 or batch < 1:
        raise ValueError(f"task.rounds={rounds}, task.batch={batch}: neither may be 0")
    autocast(torch.device("cpu"), precision)  # a precision that is none is told before anything is built
    shape = {"rows": batch, "conditions": conditions, "size": size, "seed": seed}
    figures = count(module, **shape)
    if device == COUNTED:
        _print(figures, {}, title=f"{conditions} + 1 frames, target {size} px, operations")
        return figures
    (place,) = pick_devices(device)
    steps = Steps(module(), device=place)
    fresh = steps.batch(**shape)
    given = {kind: steps.kept(fresh, kind, Clock(place, PARTS)) for kind in steps.kinds}
    clocks: dict[str, list[Clock]] = {kind: [] for kind in given}
    losses: dict[str, float] = {}
    for turn in track(range(rounds + 1), description="rounds"):
        for kind in list(given)[:: 1 if turn % 2 else -1]:
            clock = Clock(place, PARTS)
            losses[kind] = float(steps.step(given[kind], clock, precision=precision))
            if turn:
                clocks[kind].append(clock)
    figures |= _speeds(clocks, losses, rows=batch) | {"peak_gib": peak_gib(place)}
    _print(figures, clocks, title=f"{batch} samples of {conditions} + 1 frames, target {size} px, {place}, {precision}")
    return figures


def count(module: Build[GenHancer], *, rows: int, conditions: int, size: int, seed: int) -> dict[str, float]:
    """10^12 operations a sample of each kind of step, by name: counted without storage, backward pass included."""
    place = torch.device(COUNTED)
    with place:
        steps = Steps(module(), device=place)
    fresh = steps.batch(rows=rows, conditions=conditions, size=size, seed=seed)
    found = {}
    for kind in steps.kinds:
        given = steps.kept(fresh, kind, Clock(place, PARTS))
        _, total = operations(partial(steps.step, given, Clock(place, PARTS), precision="32-true"))
        found[f"{kind}_tflop"] = total / rows / 1e12
    return found


def _speeds(clocks: Mapping[str, Sequence[Clock]], losses: Mapping[str, float], *, rows: int) -> dict[str, float]:
    figures = {}
    for kind, each in clocks.items():
        figures[f"{kind}_samples_per_second"] = rows / statistics.median(clock.total for clock in each)
        if kind == ON_THE_FLY:
            continue
        ratios = [slow.total / fast.total for slow, fast in zip(clocks[ON_THE_FLY], each, strict=True)]
        figures |= {
            f"{kind}_ratio": statistics.median(ratios),
            f"{kind}_ratio_least": min(ratios),
            f"{kind}_ratio_most": max(ratios),
            f"{kind}_difference": abs(losses[kind] / losses[ON_THE_FLY] - 1),
        }
    return figures


def _print(figures: Mapping[str, float], clocks: Mapping[str, Sequence[Clock]], *, title: str) -> None:
    table = Table(
        "from the cache", "TFLOP a sample", "ratio", "samples/s", "ratio", *(f"{part} %" for part in PARTS), title=title
    )
    for kind in (name.removesuffix("_tflop") for name in figures if name.endswith("_tflop")):
        cost = figures[f"{kind}_tflop"]
        row = [kind.replace("_", " "), f"{cost:.3g}", f"{figures[f'{ON_THE_FLY}_tflop'] / cost:.2f}"]
        if each := clocks.get(kind, ()):
            whole = sum(clock.total for clock in each)
            least, most = (figures.get(f"{kind}_ratio_{end}", 1.0) for end in ("least", "most"))
            row += [f"{figures[f'{kind}_samples_per_second']:.3g}"]
            row += [f"{figures.get(f'{kind}_ratio', 1.0):.2f} ({least:.2f}-{most:.2f})"]
            row += [f"{100 * sum(clock.seconds[part] for clock in each) / whole:.1f}" for part in PARTS]
        table.add_row(*row)
    Console(width=140).print(table)
