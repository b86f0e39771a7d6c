"""The preparation task that asks `generate` for the clips of VBench, named as it wants them."""

from pathlib import Path
from typing import Any

from common.files import write_jsonl
from projects.text_to_video.vbench import DIMENSIONS, FLICKERING, VBenchError, read_prompts, refuse_unknown

SUFFIX = ".mp4"
MOST_BYTES = 255 - len("..00000000.part")  # of a file name, beside what it is called while it is written
NAMED = 3  # of many faults that a message shows


def vbench_prompts(
    *, info: str, videos: str | None, dimensions: list[str] | None, samples: int, flickering: int, out: str | None
) -> dict[str, Any]:
    """Writes a request of `generate` for every clip that is not there yet.

    A clip is `<prompt>-<index>.mp4`. Its noise depends on this name, without the suffix, and on `sampling.seed`, so
    that every clip of a prompt is another, and the same whenever it is made.

    Args:
        info: `VBench_full_info.json`.
        videos: folder of the clips, made if need be; every checkpoint needs one of its own.
        dimensions: those to sample for; None for all 16.
        samples: clips of a prompt; VBench scores 5.
        flickering: clips of a prompt of temporal flickering, of which a filter takes 5 static ones.
        out: requests, JSON lines; None for `videos` with the suffix .jsonl.

    Returns:
        Counts: prompts, clips, and clips that are missing yet.

    Raises:
        VBenchError: no folder, the file is not of VBench's form, a prompt cannot name a file, or the folder holds other
            files.
    """
    if videos is None:
        raise VBenchError(
            "task.videos=FOLDER says where the clips go: one for each checkpoint, for what is there stays"
        )
    if samples < 1 or flickering < 1:
        raise VBenchError(f"task.samples={samples}, task.flickering={flickering}: at least 1 clip of a prompt")
    wanted = list(DIMENSIONS) if dimensions is None else dimensions
    refuse_unknown(wanted, where="task.dimensions")
    chosen = {prompt: set(of) & set(wanted) for prompt, of in read_prompts(Path(info)).items()}
    counts = {
        prompt: max(flickering if FLICKERING in of else 0, samples if of - {FLICKERING} else 0)
        for prompt, of in chosen.items()
        if of
    }
    if not counts:
        raise VBenchError(f"{info}: no prompts of {', '.join(wanted)}")
    _refuse_names(counts, info)
    folder = Path(videos).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    there = _there(folder)
    names = {f"{prompt}-{index}": prompt for prompt, count in counts.items() for index in range(count)}
    rows = [
        {"id": name, "prompt": prompt, "file": str(folder / f"{name}{SUFFIX}")}
        for name, prompt in names.items()
        if f"{name}{SUFFIX}" not in there
    ]
    requests = Path(out) if out is not None else folder.with_name(f"{folder.name}.jsonl")
    write_jsonl(requests, rows)
    return {"prompts": len(counts), "clips": len(names), "missing": len(rows), "requests": str(requests)}


def _refuse_names(counts: dict[str, int], info: str) -> None:
    """Prompts of which no file can bear the name, since another name is one that VBench does not find."""
    for prompt, count in counts.items():
        name = f"{prompt}-{count - 1}{SUFFIX}"
        if "/" in prompt or not prompt.isprintable() or prompt.startswith("."):
            raise VBenchError(f'{info}: no file can be named after "{prompt}" (a slash, a control character or a dot)')
        if len(name.encode()) > MOST_BYTES:
            raise VBenchError(
                f'{info}: "{prompt}" is {len(prompt.encode())} bytes long, too long for the name of a file '
                f"({MOST_BYTES} bytes with -{count - 1}{SUFFIX})"
            )


def _there(folder: Path) -> set[str]:
    """Names of the clips in a folder that holds nothing else: VBench takes the suffix of whichever file it lists."""
    found = {path.name for path in folder.iterdir()}
    if other := sorted(name for name in found if not name.endswith(SUFFIX)):
        raise VBenchError(
            f"{folder} holds {', '.join(other[:NAMED])} ({len(other)} in all), VBench wants {SUFFIX} alone there; "
            "take them out (.part is what a killed process left of a clip)"
        )
    return found
