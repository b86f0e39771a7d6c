"""Frames a second of each decoder on one's own clips."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.progress import track
from common.video.clip import VideoReadError
from common.video.decode import probe, read
from common.video.sample import uniform

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".flv", ".wmv"})
REFERENCE = "pyav"


def decode_benchmark(
    *, folder: Path | str, backends: Sequence[str], frames: int = 16, rounds: int = 5, max_files: int = 20
) -> dict[str, float]:
    """Times the decoders on the clips of a folder and prints a table.

    Every round reads every clip with every decoder, one after the other, so that a machine that slows down does so
    for all of them. A clip's time includes opening it. A first look, not counted, finds what a decoder refuses.

    Args:
        folder: searched for video files with all its subfolders, in the order of their names.
        backends: names that `common.video.decode.read` knows.
        frames: to read of each clip, evenly spaced (all of them where it has fewer).
        rounds: counted rounds, > 0.
        max_files: most files to read.

    Returns:
        For each backend `<backend>/frames_per_second` (median of the rounds, over the clips it reads),
        `<backend>/files` and `<backend>/refused`; and for those that read anything `<backend>/ratio_to_pyav`, the
        median over rounds of the speed relative to pyav's on the same clips in the same round.

    Raises:
        ValueError: no backend, no round, or no video in the folder.
    """
    files = _files(Path(folder), max_files)
    if not backends or rounds < 1 or frames < 1:
        raise ValueError(f"backends={list(backends)}, rounds={rounds}, frames={frames}: none may be empty or 0")
    order = list(dict.fromkeys([REFERENCE, *backends]))
    refused = {backend: _refused(files, backend, frames) for backend in order}
    seconds: dict[tuple[str, Path], list[float]] = {}
    for _ in track(range(rounds), description="rounds"):
        for file in files:
            for backend in order:
                if file not in refused[backend]:
                    seconds.setdefault((backend, file), []).append(_time(file, backend, frames))
    counts = {file: min(frames, probe(file).num_frames) for file in files if file not in refused[REFERENCE]}
    figures: dict[str, float] = {}
    for backend in order:
        figures |= _figures(backend, [f for f in counts if f not in refused[backend]], counts, seconds, rounds)
        figures[f"{backend}/refused"] = len(refused[backend])
    _print(order, figures, refused)
    return figures


def _files(folder: Path, max_files: int) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"task.folder={folder} holds no video (looked for {', '.join(sorted(SUFFIXES))})")
    return found[:max_files]


def _refused(files: Sequence[Path], backend: str, frames: int) -> dict[Path, str]:
    """Files that a decoder does not read, with its reasons."""
    reasons = {}
    for file in files:
        try:
            _time(file, backend, frames)
        except VideoReadError as error:
            reasons[file] = error.reason
    return reasons


def _time(file: Path, backend: str, frames: int) -> float:
    start = time.perf_counter()
    read(file, lambda info: uniform(info.num_frames, min(frames, info.num_frames)), backend=backend)
    return time.perf_counter() - start


def _figures(
    backend: str,
    files: Sequence[Path],
    counts: dict[Path, int],
    seconds: dict[tuple[str, Path], list[float]],
    rounds: int,
) -> dict[str, float]:
    """Medians over the rounds of one decoder, on the clips that it reads."""
    figures: dict[str, float] = {f"{backend}/files": len(files)}
    if not files:
        return figures
    number = sum(counts[file] for file in files)
    own = [sum(seconds[backend, file][i] for file in files) for i in range(rounds)]
    reference = [sum(seconds[REFERENCE, file][i] for file in files) for i in range(rounds)]
    figures[f"{backend}/frames_per_second"] = statistics.median(number / spent for spent in own)
    ratios = [theirs / spent for theirs, spent in zip(reference, own, strict=True)]
    figures[f"{backend}/ratio_to_pyav"] = statistics.median(ratios)
    return figures


def _print(order: Sequence[str], figures: dict[str, float], refused: dict[str, dict[Path, str]]) -> None:
    console = Console()
    table = Table("backend", "frames/s", "ratio to pyav", "files", "refused", title="decoding, one process")
    for backend in order:
        speed = figures.get(f"{backend}/frames_per_second")
        ratio = figures.get(f"{backend}/ratio_to_pyav")
        shown = ["-" if speed is None else f"{speed:.0f}", "-" if ratio is None else f"{ratio:.2f}"]
        numbers = [f"{figures[f'{backend}/{kind}']:.0f}" for kind in ("files", "refused")]
        table.add_row(backend, *shown, *numbers)
    console.print(table)
    for backend, reasons in refused.items():
        for file, reason in reasons.items():
            console.print(f"{backend} refused {file}: {reason}", highlight=False, markup=False, soft_wrap=True)
