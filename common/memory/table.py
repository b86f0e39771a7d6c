"""Memory as tables: Markdown whose columns also line up on a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from common.files import atomic_write_text
from common.memory.devices import STRATEGIES, Need
from common.memory.recipe import uses
from common.memory.run import MemoryRun

BEGIN, END = "<!-- memory:begin -->", "<!-- memory:end -->"
DEVICES = (1, 2, 4, 8)
PARTS = {
    "weights, frozen": "frozen",
    "weights, trained": "trained",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "average of weights": "average",
    "activations": "activations",
    "the rest": "rest",
}


def grid(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head, the first column is text and the others are numbers."""
    head, *body = ([*row] for row in rows)
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = [
        [cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(parts)]
        for parts in (list(zip(row, widths, strict=True)) for row in (head, rule, *body))
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def size(count: float) -> str:
    """Bytes in GB (1e9), small numbers in MB."""
    return f"{count / 1e9:.1f} GB" if count >= 0.95e8 else f"{count / 1e6:.1f} MB"


def by_part(run: MemoryRun) -> str:
    """The parts of what each device needs, and whether it fits."""
    needed = run.need()
    rows = [(name, size(getattr(needed, field))) for name, field in PARTS.items()]
    rows.append((f"in all, during {needed.when}", size(needed.total)))
    if run.capacity is not None:
        rows.append((f"a device has {size(run.capacity)}", "fits" if needed.total <= run.capacity else "DOES NOT FIT"))
    return grid([("part", "each device"), *rows])


def by_devices(runs: Mapping[str, MemoryRun]) -> str:
    """What each device needs on 1, 2, 4, 8 devices under each strategy; in brackets where it does not fit."""
    rows: list[Sequence[str]] = [("run", "strategy", *(f"{count} x" for count in DEVICES))]
    for name, run in runs.items():
        for strategy in STRATEGIES:
            if strategy == "fsdp" and run.packed:  # which common.parallel refuses
                continue
            cells = [_cell(run, run.need(strategy=strategy, devices=count)) for count in DEVICES]
            rows.append((name, strategy, *cells))
    return grid(rows)


def by_setting(run: MemoryRun, others: Mapping[str, MemoryRun]) -> str:
    """What other settings would need, and how much less that is."""
    needed = {name: other.need() for name, other in others.items()}
    if uses(run.tree["model"], "quantize") and not run.packed and run.strategy == "ddp":
        needed["quantize=true (frozen matrices in 4 bits)"] = run.need(packed=True)
    if run.gpu:
        needed |= {f"{name} over 8 devices": run.need(strategy=name, devices=8) for name in ("zero2", "fsdp")}
    own = run.need().total
    rows = [(name, _cell(run, each), _signed(own - each.total)) for name, each in needed.items()]
    return grid([("instead", "each device", "saves"), *rows])


def _signed(count: float) -> str:
    return ("-" if count < 0 else "") + size(abs(count))


def _cell(run: MemoryRun, needed: Need) -> str:
    fits = run.capacity is None or needed.total <= run.capacity
    return size(needed.total) if fits else f"({size(needed.total)})"


def write(page: Path, text: str, *, begin: str = BEGIN, end: str = END) -> None:
    """Puts a text between the markers of a page.

    Raises:
        ValueError: the page is not there, or has not exactly one pair of them.
    """
    if not page.is_file():
        raise ValueError(f"{page} is not there; give a page with a line {begin} and behind it a line {end}")
    before, begun, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended or begin in after:
        raise ValueError(f"{page} needs one line {begin} and behind it one line {end}")
    atomic_write_text(page, f"{before}{begin}\n{text}\n{end}{after}")
