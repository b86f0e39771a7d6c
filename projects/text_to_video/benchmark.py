"""Training steps of the distributed kind: target frames a clip, shared keys and values, cached latents, in one run."""

import itertools
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.config import ROOT
from common.encoders.turns import pick_devices
from common.files import atomic_write_text
from common.measure import Clock, autocast, operations, peak_gib
from common.progress import track
from common.run import git_state
from common.types import Build
from projects.text_to_video.benchmark_rows import Case, Row, gains, print_rows, records
from projects.text_to_video.benchmark_steps import PARTS, TARGETS, Steps
from projects.text_to_video.data import ClipBatch
from projects.text_to_video.module import TextToVideo

CASES = [Case(*each) for each in itertools.product(TARGETS, (False, True), (False, True))]
HEAVIEST = Case(max(TARGETS), shared=False, cached=False)
AGREE = {"32-true": 1e-4, "bf16-mixed": 2e-2}  # of the losses, relative: sums of another order


def benchmark(
    *,
    module: Build[TextToVideo],
    size: int,
    batch: int,
    rounds: int,
    device: str,
    precision: str,
    record: str,
    seed: int,
) -> dict[str, float]:
    """Times a step of every case on the same clips and the same weights, in turn, and prints a table.

    A case is a number of target frames (1, 4, 8), keys and values of the media shared by them or computed for each as
    published, and latents from the cache or encoded. Frames come decoded and from memory, as latents do; captions are
    encoded in every case. Operations are counted beforehand, without storage. One step of the heaviest case goes before
    the first round.

    Args:
        module: recipe of the module, of the distributed kind.
        size: side of the frames in pixels.
        batch: clips a step.
        rounds: timed rounds, each of one step of each case, in an order that changes from round to round.
        device: "cpu", "cuda" or "cuda:i".
        precision: "32-true", or "bf16-mixed", under autocast.
        record: JSON file for all figures and what they were measured with.
        seed: of the frames.

    Returns:
        For m = 1, 4, 8 `shared_m<m>` and `cached_m<m>`, how often as fast a step from cached latents is with shared
        keys and values, and with shared ones from cached latents: medians over the rounds; beside each `_predicted` by
        operations. `shared_difference` and `cached_difference`, greatest relative differences of the losses,
        `cached_encoder_calls` of all steps, and `peak_gib` of the process, or of the GPU.

    Raises:
        ValueError: no such device or precision, no round, no clip, a size that does not fit, or another kind.
    """
    if rounds < 1 or batch < 1:
        raise ValueError(f"task.rounds={rounds}, task.batch={batch}: neither may be 0")
    (place,) = pick_devices(device)
    autocast(place, precision)  # a precision that is none is told before anything is built
    counts = predict(module, rows=batch, size=size)
    steps = Steps(module(), device=place)
    batches = steps.batches(rows=batch, size=size, seed=seed)
    rows = {case: Row(case, batch, counts[case] / batch / 1e12) for case in CASES}
    calls = 0
    steps.step(HEAVIEST, batches, Clock(place, PARTS), precision=precision)
    for case in track(turns(rounds), description="steps"):
        before, clock = steps.encoder_calls, Clock(place, PARTS)
        rows[case].losses.append(steps.step(case, batches, clock, precision=precision))
        rows[case].seconds.append(clock.total)
        calls += steps.encoder_calls - before if case.cached else 0
    figures = gains(rows) | differences(rows) | {"cached_encoder_calls": calls, "peak_gib": peak_gib(place)}
    title = f"{batch} clips of {steps.frames} frames of {size} px, {place}, {precision}"
    print_rows(rows, figures, title=title)
    settings = {"size": size, "batch": batch, "rounds": rounds, "device": str(place), "precision": precision}
    write(Path(record), settings, figures, rows)
    for name in ("shared_difference", "cached_difference"):
        assert figures[name] <= AGREE[precision], f"{name} {figures[name]:.2g}: these are not the same steps"
    return figures


def turns(rounds: int) -> list[Case]:
    """Every case once a round, in an order that changes from round to round."""
    return [case for number in range(rounds) for case in CASES[:: -1 if number % 2 else 1]]


def predict(module: Build[TextToVideo], *, rows: int, size: int) -> dict[Case, int]:
    """Operations of forward and backward pass of every case, counted without storage."""
    steps = Steps(module(), device=torch.device("meta"))
    batches = steps.batches(rows=rows, size=size, seed=0)
    _, encoding = operations(partial(steps.encode, batches[False]))
    counts: dict[Case, int] = {}
    for case in track([case for case in CASES if case.cached], description="operations"):
        _, count = operations(partial(_gradients, steps, case, batches))
        counts |= {case: count, case._replace(cached=False): count + encoding}
    return counts


def _gradients(steps: Steps, case: Case, batches: Mapping[bool, ClipBatch]) -> None:
    steps.forward(case, batches).backward()
    steps.optimizer.zero_grad()


def differences(rows: Mapping[Case, Row]) -> dict[str, float]:
    """Greatest relative difference of any losses of steps that should give the same."""
    pairs: dict[str, list[float]] = {"shared_difference": [], "cached_difference": []}
    for case, row in rows.items():
        for name, other in (
            ("shared_difference", case._replace(shared=not case.shared)),
            ("cached_difference", case._replace(cached=not case.cached)),
        ):
            pairs[name] += [abs(a - b) / abs(b) for a in row.losses for b in rows[other].losses]
    return {name: max(found) for name, found in pairs.items()}


def write(path: Path, settings: Mapping[str, Any], figures: Mapping[str, float], rows: Mapping[Case, Row]) -> None:
    """Everything as JSON."""
    revision, dirty = git_state(ROOT)
    made = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision,
        "dirty": dirty,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **settings,
        "figures": dict(figures),
        "rows": records(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(made, indent=2) + "\n")
